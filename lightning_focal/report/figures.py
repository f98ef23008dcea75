"""What a figure shows, apart from how it is drawn: the page draws it with plotly, TensorBoard gets it from matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["PALETTE", "CourseFigure", "Curve", "IntervalFigure", "Panel", "Point", "Views", "colour", "dashed", "shortened"]

PALETTE = ("#355aac", "#cc9616", "#128c86", "#ed38bd", "#56a5ff", "#6c561b", "#8d56e0")
"""Hues that people with each common kind of colour blindness can tell apart, on white and on near black."""

_GREY = "#8a8f98"


@dataclass(frozen=True)
class Curve:
    """A line over rollout batches.

    Args:
        name: what the legend says; curves of one name share colour, dash and legend entry over all panels.
        x: batches.
        y: values.
        low: lower ends of an interval at each ``x``, empty = none.
        high: upper ends.
        faint: values before smoothing at ``x``, drawn faintly; empty = none.
        hue: place in the palette; behind its end the lines are dashed and areas hatched; -1 = grey and thin, one of many.
        points: markers in place of a line.
        banded: draw the interval as a band; otherwise it is told where one points at.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    faint: Sequence[float] = ()
    hue: int = 0
    points: bool = False
    banded: bool = True


@dataclass(frozen=True)
class Panel:
    """Curves under one vertical axis.

    Args:
        title: the quantity and its unit.
        curves: drawn in this order.
        span: lowest and highest value of the axis; None = from the values.
        stacked: areas on top of each other in place of lines.
    """

    title: str
    curves: tuple[Curve, ...]
    span: tuple[float, float] | None = None
    stacked: bool = False


@dataclass(frozen=True)
class CourseFigure:
    """Panels above each other on one shared axis of rollout batches."""

    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Point:
    """A value with its interval; without one ``low`` and ``high`` are None."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class IntervalFigure:
    """Rows of values with intervals, side by side by series.

    Args:
        rows: labels, top to bottom.
        series: name -> one point a row, None = not known. Two series read as before and after.
        title: the quantity and its unit.
        span: lowest and highest value of the axis; None = from the values.
    """

    rows: tuple[str, ...]
    series: Mapping[str, Sequence[Point | None]]
    title: str
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Views:
    """One figure in several views, chosen from lists.

    Args:
        name: its anchor.
        short: what the navigation says.
        title: heading.
        caption: what it shows and how it was computed.
        choices: name of each list a person may choose from.
        views: one value a list -> figure.
    """

    name: str
    short: str
    title: str
    caption: str
    choices: tuple[str, ...] = ()
    views: Mapping[tuple[str, ...], CourseFigure | IntervalFigure] = field(default_factory=dict)


def colour(hue: int) -> str:
    """Colour of a hue, see :class:`Curve`."""
    return _GREY if hue < 0 else PALETTE[hue % len(PALETTE)]


def dashed(hue: int) -> bool:
    """Whether a hue is told from an earlier one by dashes, or hatching."""
    return hue >= len(PALETTE)


def shortened(text: str, limit: int = 32) -> str:
    """A label of at most ``limit`` characters on one line.

    >>> shortened("no list,  not even a short one", 12)
    'no list, no…'
    """
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
