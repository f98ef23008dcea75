"""Figures as plotly specifications: plain mappings, drawn in the reader's browser."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from lightning_focal.report.figures import CourseFigure, Curve, IntervalFigure, Panel, Point, colour, dashed, shortened

__all__ = ["plotly_spec"]

_PANEL_HEIGHT, _ROW_HEIGHT, _GAP = 165, 30, 34  # pixels
_BETWEEN = 0.22  # of a row: where the points of two series stand


def plotly_spec(figure: CourseFigure | IntervalFigure) -> dict[str, Any]:
    """Return ``data``, ``layout`` and ``legend`` of a figure.

    Text and grid have no colours here: those are the page's, by style sheet. The legend is a list of name, colour and dash, built by
    the page; a trace names its entry in ``legendgroup``. Names of criteria are escaped: plotly reads a little HTML in text.
    """
    return _course(figure) if isinstance(figure, CourseFigure) else _intervals(figure)


def _course(figure: CourseFigure) -> dict[str, Any]:
    n = len(figure.panels)
    inner = n * _PANEL_HEIGHT + (n - 1) * _GAP
    layout: dict[str, Any] = {
        **_LAYOUT,
        "height": inner + 70,
        "margin": {"l": 52, "r": 14, "t": 26, "b": 44, "pad": 2},
        "xaxis": {
            **_AXIS,
            "title": {"text": "rollout batch", "standoff": 8},
            "anchor": f"y{n if n > 1 else ''}",
            "rangemode": "tozero",
            "nticks": 9,
        },
        "annotations": [],
    }
    data: list[dict[str, Any]] = []
    legend: dict[str, dict[str, Any]] = {}
    for i, panel in enumerate(figure.panels):
        top = 1 - i * (_PANEL_HEIGHT + _GAP) / inner
        bottom = max(0.0, top - _PANEL_HEIGHT / inner)
        axis = "y" if i == 0 else f"y{i + 1}"
        layout["yaxis" + axis[1:]] = {**_AXIS, "domain": [bottom, top], "nticks": 5, "range": _span(panel)}
        layout["annotations"].append(_heading(panel.title, top))
        for at, curve in enumerate(panel.curves):
            traces = _traces(curve, axis, panel.stacked, first=at == 0)
            data += traces
            legend.setdefault(curve.name, _entry(curve.name, curve.hue, curve.points or panel.stacked, round=curve.points))
    return {"data": data, "layout": layout, "legend": list(legend.values())}


def _heading(title: str, y: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": y, "xanchor": "left", "yanchor": "bottom", "yshift": 3}
    return {**place, "text": _escaped(title), "showarrow": False, "font": {"size": 13}}


def _traces(curve: Curve, axis: str, stacked: bool, first: bool) -> list[dict[str, Any]]:
    shared = {"x": list(curve.x), "yaxis": axis, "xaxis": "x", "legendgroup": curve.name, "showlegend": False, "type": "scatter"}
    tint = colour(curve.hue)
    traces: list[dict[str, Any]] = []
    if curve.low and curve.banded:
        for values, fill in ((curve.low, "none"), (curve.high, "tonexty")):
            hidden: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "fill": fill, "hoverinfo": "skip"}
            if fill != "none":
                hidden["fillcolor"] = _faded(tint, 0.15)
            traces.append({**shared, **hidden, "y": _numbers(values)})
    if curve.faint:
        faint = {"mode": "lines", "line": {"width": 1, "color": tint}, "opacity": 0.22, "hoverinfo": "skip", "connectgaps": True}
        traces.append({**shared, **faint, "y": _numbers(curve.faint)})
    main: dict[str, Any] = {
        **shared,
        "y": _numbers(curve.y),
        "name": _escaped(shortened(curve.name, 60)),
        "hovertemplate": "%{fullData.name}<br>%{y:.3f}%{customdata} at batch %{x}<extra></extra>",
        "customdata": [_between(Point(0, low, high)) for low, high in zip(curve.low, curve.high, strict=True)]
        or [""] * len(curve.x),
    }
    line = {"color": tint, "width": 1 if curve.hue < 0 else 2, "dash": "dash" if dashed(curve.hue) else "solid"}
    if stacked:
        main |= {"mode": "lines", "line": {"width": 0.5, "color": tint}, "stackgroup": axis, "fillcolor": _faded(tint, 0.75)}
        if dashed(curve.hue):
            main["fillpattern"] = {"shape": "/", "size": 7, "solidity": 0.45, "fgcolor": tint, "bgcolor": _faded(tint, 0.25)}
    elif curve.points or len(curve.x) == 1:
        main |= {
            "mode": "lines+markers",
            "line": {**line, "dash": "dot"},
            "marker": {"size": 8, "color": tint},
            "cliponaxis": False,
        }
    else:
        main |= {"mode": "lines", "line": line, "connectgaps": True, "opacity": 0.5 if curve.hue < 0 else 1}
    return [*traces, main]


def _intervals(figure: IntervalFigure) -> dict[str, Any]:
    rows, data, legend = list(range(len(figure.rows))), [], []
    many = len(figure.series)
    for at, (name, points) in enumerate(figure.series.items()):
        shift = 0.0 if many == 1 else _BETWEEN * (2 * at / (many - 1) - 1)
        known = [
            (row, point) for row, point in zip(rows, points, strict=True) if point is not None and math.isfinite(point.value)
        ]
        hue = (-1 if many == 2 and at == 0 else 0) if many <= 2 else at
        data.append(
            _interval_trace(name, [(row + shift, point, figure.rows[row]) for row, point in known], hue, many == 2 and at == 0)
        )
        legend.append(_entry(name, max(0, hue), True, hollow=many == 2 and at == 0, round=True) | {"colour": colour(hue)})
    longest = max((len(shortened(row)) for row in figure.rows), default=0)
    layout = {
        **_LAYOUT,
        "height": _ROW_HEIGHT * len(rows) + 76,
        "margin": {"l": min(250, 24 + 7 * longest), "r": 18, "t": 12, "b": 44, "pad": 4},
        "xaxis": {
            **_AXIS,
            "title": {"text": _escaped(figure.title), "standoff": 8},
            "range": _widened(*figure.span) if figure.span else None,
        },
        "yaxis": {
            **_AXIS,
            "tickvals": rows,
            "ticktext": [_escaped(shortened(row)) for row in figure.rows],
            "range": [len(rows) - 0.4, -0.6],
            "showgrid": False,
        },
    }
    return {"data": data, "layout": layout, "legend": legend}


def _interval_trace(name: str, points: Sequence[tuple[float, Point, str]], hue: int, hollow: bool) -> dict[str, Any]:
    tint = colour(hue)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": _escaped(name),
        "legendgroup": name,
        "showlegend": False,
        "cliponaxis": False,
        "x": [point.value for _, point, _ in points],
        "y": [row for row, _, _ in points],
        "customdata": [[_escaped(shortened(label, 60)), _between(point)] for _, point, label in points],
        "hovertemplate": "%{customdata[0]}, %{fullData.name}<br>%{x:.3f}%{customdata[1]}<extra></extra>",
        "marker": {
            "color": tint,
            "size": 9,
            "symbol": "circle-open" if hollow else "circle",
            "line": {"width": 2, "color": tint},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [0.0 if p.high is None else p.high - p.value for _, p, _ in points],
            "arrayminus": [0.0 if p.low is None else p.value - p.low for _, p, _ in points],
            "color": tint,
            "thickness": 1.6,
            "width": 4,
        },
    }


_AXIS = {"zeroline": False, "automargin": False, "ticks": "", "fixedrange": False}
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif", "size": 12},
    "hovermode": "closest",
    "dragmode": "zoom",
    "showlegend": False,
}


def _entry(name: str, hue: int, solid: bool, hollow: bool = False, round: bool = False) -> dict[str, Any]:
    shape = {"solid": solid, "hollow": hollow, "round": round}
    return {"name": name, "colour": colour(hue), "dash": dashed(hue), "grey": hue < 0, **shape}


def _span(panel: Panel) -> list[float] | None:
    if panel.span is not None:
        low, high = panel.span
        return [low, high] if panel.stacked else _widened(low, high)
    shown = [v for curve in panel.curves for part in (curve.y, curve.faint) for v in part if math.isfinite(v)]
    bands = [v for curve in panel.curves if curve.banded for v in curve.high if math.isfinite(v)]
    if not shown or min(shown) < -1e-9:  # sums that were taken apart again may end a little below 0
        return None
    top = max(shown) if max(shown) > 1 else min(1.0, max([*shown, *bands]))  # a band past what can be is cut
    return [0.0, 1.06 * top or 1.0]


def _widened(low: float, high: float) -> list[float]:
    return [low - 0.02 * (high - low), high + 0.02 * (high - low)]


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]


def _between(point: Point) -> str:
    return "" if point.low is None or point.high is None else f" [{point.low:.3f}, {point.high:.3f}]"


def _faded(tint: str, opacity: float) -> str:
    red, green, blue = (int(tint[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
