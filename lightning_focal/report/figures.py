"""What a figure shows, apart from how it is drawn: the page draws it with plotly, TensorBoard gets it from matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_focal.terminal import harmless, shortened

__all__ = [
    "CourseFigure",
    "Curve",
    "Figure",
    "IntervalFigure",
    "Marks",
    "Panel",
    "Point",
    "Views",
    "figure_text",
    "matplotlib_figure",
    "new_figure",
]

PALETTE = ("#0f72b8", "#e5910a", "#12830e", "#912f76", "#4cb6a7", "#f9144d", "#810dff", "#d877f8")
"""Hues that people with each common kind of colour blindness can tell apart, on white and on near black; no two of one name."""

GREY = "#8a8f98"
"""Colour of the hue -1."""


@dataclass(frozen=True)
class Curve:
    """A line over rollout batches; curves of one name share colour, dash and legend entry over all panels."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()  # ends of an interval at each x, empty = none
    high: Sequence[float] = ()
    faint: Sequence[float] = ()  # values before smoothing, drawn faintly; empty = none
    hue: int = 0  # place in the palette; behind its end lines are dashed with markers, areas hatched; -1 = grey, one of many
    points: bool = False  # markers in place of a line
    banded: bool = True  # draw the interval as a band; otherwise it is told where one points at


@dataclass(frozen=True)
class Panel:
    """Curves under one vertical axis, drawn in their order."""

    title: str  # the quantity and its unit
    curves: tuple[Curve, ...]
    span: tuple[float, float] | None = None  # lowest and highest value of the axis; None = from the values
    stacked: bool = False  # areas on top of each other in place of lines
    note: str = ""  # what the quantity means


@dataclass(frozen=True)
class CourseFigure:
    """Panels over rollout batches; false where there are none."""

    panels: tuple[Panel, ...]

    def __bool__(self) -> bool:
        return bool(self.panels)


@dataclass(frozen=True)
class Point:
    """A value with its interval; ``low`` and ``high`` are NaN where there is none.

    >>> f"{Point(0.5, 0.25, 0.75):.2f} {Point(1):+.1f}"
    '0.50 [0.25, 0.75] +1.0'
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __format__(self, spec: str) -> str:
        """The value, and the interval in brackets, all by one format."""
        value, low, high = (format(part, spec) for part in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if self.known else value

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low + self.high)

    @property
    def direction(self) -> int:
        """1 = the interval is above 0, -1 = below, 0 = it includes 0 or there is none."""
        return (self.low > 0) - (self.high < 0)

    def within(self, most: float = 1.0) -> Point:
        """The same with its interval cut to [0, most] where the value is in it: a share cannot be outside [0, 1]."""
        inside = self.known and 0 <= self.value <= most
        return Point(self.value, max(0.0, self.low), min(most, self.high)) if inside else self


@dataclass(frozen=True)
class Marks:
    """A point for each row of a figure, before (rings) and after training (dots); the value is NaN where it is not known."""

    name: str  # empty where there is nothing to tell it from
    before: Sequence[Point]
    after: Sequence[Point]
    hue: int = 0


@dataclass(frozen=True)
class IntervalFigure:
    """Rows of values with intervals; false where there are none. Of several marks a row has only those after training."""

    rows: tuple[str, ...]  # labels, top to bottom
    marks: tuple[Marks, ...]
    title: str  # the quantity and its unit
    span: tuple[float, float] | None = None  # lowest and highest value of the axis; None = from the values

    def __bool__(self) -> bool:
        return bool(self.rows)


Figure = CourseFigure | IntervalFigure


@dataclass(frozen=True)
class Views:
    """One figure in several views, chosen from lists."""

    name: str  # its anchor
    title: str
    caption: str  # what it shows and how it was computed
    choices: tuple[str, ...]  # name of each list a person may choose from
    views: Mapping[tuple[str, ...], Figure]  # one value a list -> figure


def figure_text(text: str, limit: int = 32) -> str:
    r"""Return a text as matplotlib shows it as it is, at most ``limit`` characters of it on one line.

    Between dollars matplotlib reads mathematics, and an underscore in front hides a label.

    >>> print(figure_text("costs $5 or $6"), figure_text("_a", 8).isprintable())
    costs \$5 or \$6 False
    """
    plain = harmless(shortened(text, limit)).replace("$", r"\$")
    return f"\u200b{plain}" if plain.startswith("_") else plain


def new_figure(width: float, height: float) -> Any:
    """Return an empty ``matplotlib.figure.Figure``, so many inches large; ImportError, which names the extra, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'lightning-focal[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def matplotlib_figure(figure: Figure) -> Any:
    """Draw a figure with matplotlib, for TensorBoard."""
    tall = 0.8 + 2.1 * max(1, len(figure.panels)) if isinstance(figure, CourseFigure) else 1.2 + 0.34 * len(figure.rows)
    drawn = new_figure(8, tall)
    entries = _draw_course(figure, drawn) if isinstance(figure, CourseFigure) else _draw_intervals(figure, drawn)
    if entries:
        names = [figure_text(name) for name in entries]
        drawn.legend(list(entries.values()), names, loc="outside right upper", fontsize="small", frameon=False)
    return drawn


def _draw_course(figure: CourseFigure, drawn: Any) -> dict[str, Any]:
    """Draw the panels; returns legend entries by name."""
    axes = drawn.subplots(max(1, len(figure.panels)), 1, sharex=True, squeeze=False)[:, 0]
    axes[-1].set_xlabel("rollout batch")
    entries: dict[str, Any] = {}
    for axis, panel in zip(axes, figure.panels, strict=False):
        axis.set_title(figure_text(panel.title, 80), loc="left", fontsize="medium")
        axis.grid(alpha=0.25)
        if panel.span is not None:
            axis.set_ylim(*panel.span)
        if panel.stacked:
            x, known = panel.curves[0].x, [dict(zip(curve.x, curve.y, strict=True)) for curve in panel.curves]
            areas = axis.stackplot(x, *([of.get(at, 0.0) for at in x] for of in known), alpha=0.75)
            for curve, area in zip(panel.curves, areas, strict=True):
                area.set(facecolor=_colour(curve.hue), hatch="//" if curve.hue >= len(PALETTE) else None)
                entries[curve.name] = area
            continue
        for curve in panel.curves:
            tint = _colour(curve.hue)
            if curve.low and curve.banded:
                axis.fill_between(curve.x, curve.low, curve.high, color=tint, alpha=0.15, linewidth=0)
            if curve.faint:
                axis.plot(curve.x, curve.faint, color=tint, alpha=0.22, linewidth=0.8)
            beyond = curve.hue >= len(PALETTE)
            style = "--" if beyond else ":" if curve.points else "-"
            marker = "s" if beyond else "o" if curve.points or len(curve.x) == 1 else None
            width = 0.8 if curve.hue < 0 else 1.6
            (entries[curve.name],) = axis.plot(curve.x, curve.y, style, color=tint, marker=marker, linewidth=width)
    return entries


def _draw_intervals(figure: IntervalFigure, drawn: Any) -> dict[str, Any]:
    """Draw the rows; returns legend entries by name."""
    axis = drawn.subplots()
    entries: dict[str, Any] = {}
    lines = [("before", mark.before, -1, "white") for mark in figure.marks[:1]] if len(figure.marks) == 1 else []
    lines += [(mark.name or "after", mark.after, mark.hue, _colour(mark.hue)) for mark in figure.marks]
    for at, (name, points, hue, fill) in enumerate(lines):
        low = [point.value - point.low if point.known else 0.0 for point in points]
        high = [point.high - point.value if point.known else 0.0 for point in points]
        values, rows = (
            [point.value for point in points],
            [row + 0.8 * ((at + 0.5) / len(lines) - 0.5) for row in range(len(points))],
        )
        entries[name] = axis.errorbar(values, rows, xerr=[low, high], fmt="o", capsize=3, mfc=fill, color=_colour(hue))
    axis.set_yticks(range(len(figure.rows)), [figure_text(row) for row in figure.rows])
    axis.invert_yaxis()
    axis.set_xlabel(figure_text(figure.title, 80))
    axis.grid(axis="x", alpha=0.25)
    if figure.span is not None:
        axis.set_xlim(*figure.span)
    return entries


def _colour(hue: int) -> str:
    return GREY if hue < 0 else PALETTE[hue % len(PALETTE)]
