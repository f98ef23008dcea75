"""Several runs side by side: means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from lightning_focal.functional import bootstrap_interval, student_interval
from lightning_focal.report.courses import evaluation_series, over_time, window_for
from lightning_focal.report.figures import CourseFigure, Curve, IntervalFigure, Panel, Point
from lightning_focal.report.held_out import Change, criterion_changes, prompt_changes, score_change
from lightning_focal.report.levels import Levels
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import Series, keys
from lightning_focal.report.run import Run

__all__ = ["MEASURES", "apart", "balance_of_methods", "criteria_of", "levels_over_seeds", "measures_of", "over_seeds", "score_of"]

MEASURES = {
    "worst criterion": "val/balance/worst",
    "mean over criteria": "val/balance/mean",
    "every criterion met": "val/balance/strict_completion",
    "Gini over criteria": "val/balance/gini",
    "response tokens": "val/rollout/length",
}
"""Measures of held-out prompts after training, beside the score, and the names they are logged under."""


_MOST_BANDS = 4


def over_seeds(values: Sequence[float]) -> Point:
    """Mean and 95 % interval by Student's t; without an interval for a single seed."""
    mean, low, high = student_interval(torch.tensor(values, dtype=torch.float64))
    return Point(mean) if math.isnan(low) else Point(mean, low, high)


def score_of(method: Method) -> Change | None:
    """Held-out score of a method: over prompts where it has one run, over seeds where it has several."""
    return _pooled([score_change(run) for run in method.runs])


def criteria_of(method: Method) -> dict[str, Change]:
    """The same of every criterion key that all its runs know."""
    changes = [criterion_changes(run) for run in method.runs]
    pooled = {key: _pooled([change[key] for change in changes]) for key in changes[0] if all(key in change for change in changes)}
    return {key: change for key, change in pooled.items() if change is not None}


def _pooled(changes: Sequence[Change | None]) -> Change | None:
    known = [change for change in changes if change is not None]
    if len(known) < 2:
        return known[0] if known else None
    before, after, difference = (
        over_seeds([getattr(c, part).value for c in known]) for part in ("before", "after", "difference")
    )
    return Change(before, after, difference, f"{len(known)} seeds")


def measures_of(method: Method) -> dict[str, Point]:
    """:data:`MEASURES` after training, mean and interval over seeds."""
    found = {}
    for label, name in MEASURES.items():
        values = [float(v) for run in method.runs if (v := _last(run, name)) is not None]
        if values:
            found[label] = over_seeds(values)
    return found


def _last(run: Run, name: str) -> float | None:
    value = run.evaluations[-1].get("measures", {}).get(name) if run.evaluations else None
    return None if value is None or math.isnan(value) else float(value)


def apart(one: Method, other: Method) -> tuple[Point, str] | None:
    """Difference of the changes in held-out score, one minus the other, and what its interval is over.

    Over seeds where they share two or more, paired by seed; else, for one run each, over the prompts they share, paired by prompt.
    None where neither is so.
    """
    changes = [dict(zip(m.seeds, (score_change(run) for run in m.runs), strict=True)) for m in (one, other)]
    pairs = [(c, d) for s, c in changes[0].items() if s is not None and c is not None and (d := changes[1].get(s)) is not None]
    if len(pairs) >= 2:
        difference = over_seeds([first.difference.value - second.difference.value for first, second in pairs])
        return difference, f"95 %, paired by {len(pairs)} seeds"
    if len(one.runs) > 1 or len(other.runs) > 1:
        return None
    moved = [prompt_changes(method.runs[0]) for method in (one, other)]
    shared = [moved[0][prompt] - moved[1][prompt] for prompt in moved[0] if prompt in moved[1]]
    if len(shared) < 2:
        return None
    mean, low, high = bootstrap_interval(torch.tensor(shared, dtype=torch.float64))
    return Point(
        mean, low, high
    ), f"95 % bootstrap over {len(shared)} prompts they share; one seed each says nothing of other seeds"


def change_figure(changes: Mapping[str, Change], title: str, most: int = 24) -> IntervalFigure:
    """Before and after, a row each; where there are more than ``most`` those that moved most."""
    kept = sorted(changes, key=lambda row: -abs(changes[row].difference.value))[:most]
    rows = [row for row in changes if row in kept]
    series = {"before": [changes[row].before for row in rows], "after": [changes[row].after for row in rows]}
    return IntervalFigure(tuple(rows), series, title, (0, 1))


def curve_over_seeds(name: str, several: Sequence[Series], window: int, hue: int, banded: bool = True) -> Curve:
    """Mean over runs of their trailing means, at the batches that all have, with an interval over seeds; of two seeds their range."""
    curves = [over_time(name, series, window, hue) for series in several]
    if len(curves) == 1:
        return curves[0]
    known = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    common = [batch for batch in curves[0].x if all(batch in values for values in known)]
    points = [_at([values[batch] for values in known]) for batch in common]
    mean, low, high = zip(*points, strict=True) if points else ((), (), ())
    return Curve(name, common, mean, low, high, hue=hue, banded=banded)


def _at(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 2:
        return sum(values) / 2, min(values), max(values)
    return student_interval(torch.tensor(values, dtype=torch.float64))


def levels_over_seeds(levels: Sequence[Levels], hue: Mapping[str, int], window: int) -> CourseFigure:
    """Score, saturation and weight of each label, mean over runs; with bands where there are few enough to see."""
    panels, few = [], len(hue) <= _MOST_BANDS
    for part in ("score", "saturation", "weight"):
        found: list[Mapping[str, Series]] = [getattr(of_run, part) for of_run in levels]
        labels = [label for label in sorted(hue, key=lambda name: hue[name] >= 0) if all(label in known for known in found)]
        curves = [curve_over_seeds(label, [known[label] for known in found], window, hue[label], few) for label in labels]
        panels.append(Panel(part, tuple(curves), None if part == "weight" else (0, 1)))
    return CourseFigure(tuple(panel for panel in panels if panel.curves))


def balance_of_methods(methods: Sequence[Method]) -> CourseFigure:
    """Worst criterion, Gini coefficient and strict completion in training, a curve a method; empty where each has one criterion."""
    panels: list[Panel] = []
    if all(len(keys(run.metrics, "train/criterion/", "/score")) < 2 for method in methods for run in method.runs):
        return CourseFigure(())
    for title, name, span in (
        ("worst criterion", "train/balance/worst", None),
        ("Gini coefficient", "train/balance/gini", None),
        ("strict completion", "train/balance/strict_completion", None),
    ):
        curves = [
            curve_over_seeds(method.label, found, window_for(max(run.batches for run in method.runs)), hue)
            for hue, method in enumerate(methods)
            if (found := [run.metrics[name] for run in method.runs if name in run.metrics])
        ]
        if curves:
            panels.append(Panel(title, tuple(curves), span))
    return CourseFigure(tuple(panels))


def scores_of_methods(methods: Sequence[Method]) -> CourseFigure:
    """Held-out score at every evaluation, a curve a method."""
    curves = []
    for hue, method in enumerate(methods):
        found = [series for run in method.runs if (series := evaluation_series(run, "val/held_out/mean")).batches]
        if found:
            curve = curve_over_seeds(method.label, found, 1, hue)
            if len(found) == 1 and (run := next(run for run in method.runs if run.evaluations)):
                low, high = (evaluation_series(run, f"val/held_out/{end}").values for end in ("low", "high"))
                if len(low) == len(high) == len(curve.x):
                    curve = Curve(curve.name, curve.x, curve.y, low, high, hue=hue)
            curves.append(curve)
    return CourseFigure((Panel("held-out score", tuple(curves)),) if any(len(curve.x) > 2 for curve in curves) else ())
