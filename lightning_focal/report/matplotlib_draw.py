"""The same figures by matplotlib, for TensorBoard."""

from __future__ import annotations

import math
from typing import Any

from lightning_focal.report.figures import CourseFigure, Curve, IntervalFigure, colour, dashed, shortened

__all__ = ["matplotlib_figure"]


def matplotlib_figure(figure: CourseFigure | IntervalFigure) -> Any:
    """Draw a figure; returns a ``matplotlib.figure.Figure`` that no window manager knows of.

    Raises:
        ImportError: without matplotlib; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'lightning-focal[plots]'") from error
    if isinstance(figure, CourseFigure):
        drawn = Figure(figsize=(8, 0.8 + 2.1 * max(1, len(figure.panels))), layout="constrained")
        _course(figure, drawn)
    else:
        drawn = Figure(figsize=(8, 1.2 + 0.34 * len(figure.rows)), layout="constrained")
        _intervals(figure, drawn)
    return drawn


def _course(figure: CourseFigure, drawn: Any) -> None:
    axes = drawn.subplots(max(1, len(figure.panels)), 1, sharex=True, squeeze=False)[:, 0]
    entries: dict[str, Any] = {}
    for axis, panel in zip(axes, figure.panels, strict=False):
        axis.set_title(_plain(shortened(panel.title, 80)), loc="left", fontsize="medium")
        if panel.span is not None:
            axis.set_ylim(*panel.span)
        axis.grid(alpha=0.25)
        if panel.stacked and panel.curves:
            x = panel.curves[0].x
            tints = [colour(curve.hue) for curve in panel.curves]
            areas = axis.stackplot(x, *[_on(curve, x) for curve in panel.curves], colors=tints, alpha=0.75)
            for curve, area in zip(panel.curves, areas, strict=True):
                area.set_hatch("//" if dashed(curve.hue) else None)
            entries |= {curve.name: area for curve, area in zip(panel.curves, areas, strict=True)}
            continue
        for curve in panel.curves:
            entries[curve.name] = _line(axis, curve)
    axes[-1].set_xlabel("rollout batch")
    if entries:
        names = [_plain(shortened(name)) for name in entries]
        drawn.legend(list(entries.values()), names, loc="outside right upper", fontsize="small", frameon=False)


def _line(axis: Any, curve: Curve) -> Any:
    tint = colour(curve.hue)
    if curve.low and curve.banded:
        axis.fill_between(curve.x, curve.low, curve.high, color=tint, alpha=0.15, linewidth=0)
    if curve.faint:
        axis.plot(curve.x, curve.faint, color=tint, alpha=0.22, linewidth=0.8)
    style = "--" if dashed(curve.hue) else ":" if curve.points else "-"
    marker = "o" if curve.points or len(curve.x) == 1 else None
    (line,) = axis.plot(curve.x, curve.y, style, color=tint, marker=marker, linewidth=0.8 if curve.hue < 0 else 1.6)
    return line


def _on(curve: Curve, x: Any) -> list[float]:
    known = dict(zip(curve.x, curve.y, strict=True))
    return [known.get(batch, 0.0) for batch in x]


def _intervals(figure: IntervalFigure, drawn: Any) -> None:
    axis, many = drawn.subplots(), len(figure.series)
    for at, (name, points) in enumerate(figure.series.items()):
        shift = 0.0 if many == 1 else 0.44 * at / (many - 1) - 0.22
        known = [(row + shift, p) for row, p in enumerate(points) if p is not None and math.isfinite(p.value)]
        low = [0.0 if p.low is None else max(0.0, p.value - p.low) for _, p in known]
        high = [0.0 if p.high is None else max(0.0, p.high - p.value) for _, p in known]
        style = {"fmt": "o", "capsize": 3, "mfc": "white" if many == 2 and at == 0 else None, "label": _plain(name)}
        hue = (-1 if many == 2 and at == 0 else 0) if many <= 2 else at
        axis.errorbar([p.value for _, p in known], [row for row, _ in known], xerr=[low, high], color=colour(hue), **style)
    axis.set_yticks(range(len(figure.rows)), [_plain(shortened(row)) for row in figure.rows])
    axis.invert_yaxis()
    axis.set_xlabel(_plain(shortened(figure.title, 80)))
    axis.grid(axis="x", alpha=0.25)
    if figure.span is not None:
        axis.set_xlim(*figure.span)
    drawn.legend(loc="outside right upper", fontsize="small", frameon=False)


def _plain(text: str) -> str:
    """Text as it is: matplotlib reads mathematics between dollars, and cannot draw half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")
