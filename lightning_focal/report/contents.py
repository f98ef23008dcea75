"""Which figures a report has, made from its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lightning_focal.functional import student_interval
from lightning_focal.report.figures import CourseFigure, Curve, Figure, IntervalFigure, Panel, Views
from lightning_focal.report.held_out import Change, criteria_of, score_of
from lightning_focal.report.levels import Levels
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import Series, keys
from lightning_focal.report.run import Run

__all__ = ["all_figures"]

_MOST_CURVES = 10  # in colour or dashed; more cannot be told apart
_MOST_BANDS = 4
_MOST_POINTS = 300
_MOST_ROWS = 24
_MOST_RUNS = 24  # with views of their own

Choice = tuple[str, ...]
RunLevels = Mapping[Path, Mapping[str, Levels]]
Parts = Mapping[str, Mapping[str, str]]
"""Panel -> label -> what is logged in training. The axis of a panel whose title ends in "share" goes from 0 to 1."""

_VOTES: Parts = {
    "votes and accuracy, share": {
        "votes for the label": "vote/share",
        "labels that are right": "vote/accuracy",
        "answers that are right": "answer/accuracy",
    },
    "answers that are missing, views that agree; share": {
        "responses without an answer": "vote/unanswered",
        "groups without a label": "vote/no_label",
        "student and teacher agree": "vote/teacher_agreement",
        "both wordings agree": "vote/swap_agreement",
    },
    "distinct answers in a group": {"distinct answers": "vote/distinct"},
    "entropy and certainty, nats a token": {
        "entropy of the policy": "policy/entropy",
        "self-certainty": "certainty/self_certainty",
    },
    "signs of a collapse": {"signs in force": "collapse/signs"},
}
_HEALTH: Parts = {
    "reward": {"in force": "reward/mean", "static weights": "reward/static"},
    "response length, tokens": {"response length": "rollout/length"},
    "share of responses, of judgements": {
        "cut off by the limit": "rollout/truncated",
        "judgements that failed": "judge/failure_rate",
    },
    "entropy and divergence, nats a token": {"entropy": "policy/entropy", "KL to the reference": "policy/kl"},
}
_BALANCE = {
    "worst criterion": "balance/worst",
    "Gini coefficient": "balance/gini",
    "strict completion": "balance/strict_completion",
}


def all_figures(methods: Sequence[Method], levels: RunLevels) -> list[Views]:
    """Return the figures of a report on some methods, those without data left out.

    Args:
        methods: with their runs.
        levels: of each run, by its folder.
    """
    made = [
        _scores(methods),
        _score_course(methods),
        _criteria(methods),
        _votes(methods),
        _levels(methods, levels),
        _shares(methods, levels),
        _balance(methods),
        _health(methods),
    ]
    drawn = [replace(views, views={choice: figure for choice, figure in views.views.items() if figure}) for views in made]
    return [views for views in drawn if views.views]


def _runs(methods: Sequence[Method]) -> list[tuple[str, Run]]:
    return [titled for method in methods for titled in method.titles]


def _smooth(methods: Sequence[Method], faint: bool = False) -> str:
    """What captions say of the lines."""
    window = max(_window(run) for _, run in _runs(methods))
    behind = " Faint lines are single batches." if faint else ""
    return "" if window == 1 else f" Lines are means over the latest {window} batches.{behind}"


def _window(run: Run) -> int:
    """Number of batches that a curve averages over: a twentieth of the run, at least 1."""
    return max(1, round(run.batches / 20))


def over_time(name: str, series: Series, window: int, hue: int, faint: bool = False) -> Curve:
    """A curve of trailing means, thinned to a few hundred points; with the values themselves behind it where ``faint``."""
    smooth, raw = series.trailing(window), series.values
    kept = list(range(0, len(smooth), max(1, math.ceil(len(smooth) / _MOST_POINTS))))
    if kept and kept[-1] != len(smooth) - 1:
        kept.append(len(smooth) - 1)
    behind = [raw[i] for i in kept] if faint and window > 1 else ()
    return Curve(name, [series.batches[i] for i in kept], [smooth[i] for i in kept], faint=behind, hue=hue)


def curve_over_seeds(name: str, several: Sequence[Series], window: int, hue: int, banded: bool = True) -> Curve:
    """Mean over runs of their trailing means, at the batches that all have, with an interval over seeds; of two seeds their range."""
    curves = [over_time(name, series, window, hue) for series in several]
    if len(curves) == 1:
        return curves[0]
    known = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    common = [batch for batch in curves[0].x if all(batch in values for values in known)]
    points = [_mean_and_interval([values[batch] for values in known]) for batch in common]
    mean, low, high = zip(*points, strict=True) if points else ((), (), ())
    return Curve(name, common, mean, low, high, hue=hue, banded=banded)


def _mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 2:
        return sum(values) / 2, min(values), max(values)
    return student_interval(torch.tensor(values, dtype=torch.float64))


def change_figure(changes: Mapping[str, Change], title: str) -> IntervalFigure:
    """Before and after, a row each; where there are too many rows, those that moved most."""
    kept = sorted(changes, key=lambda row: -abs(changes[row].difference.value))[:_MOST_ROWS]
    rows = tuple(row for row in changes if row in kept)
    before, after = [changes[row].before for row in rows], [changes[row].after for row in rows]
    inside = all(not point.known or (point.low >= 0 and point.high <= 1) for point in (*before, *after))
    return IntervalFigure(rows, before, after, title, (0, 1) if inside else None)


def _scores(methods: Sequence[Method]) -> Views:
    changes = {method.label: change for method in methods if (change := score_of(method))} if len(methods) > 1 else {}
    caption = "Before and after training, 95 % intervals: over seeds by Student's t where a method has several, else bootstrapped over prompts."
    return Views(
        "scores",
        "Methods",
        "Held-out score by method",
        caption,
        (),
        {(): change_figure(changes, "held-out score (prior weights)")},
    )


def _score_course(methods: Sequence[Method]) -> Views:
    curves = []
    for hue, method in enumerate(methods):
        measured = [run for run in method.runs if run.held_out_series("val/held_out/mean").batches]
        if not measured:
            continue
        curve = curve_over_seeds(method.label, [run.held_out_series("val/held_out/mean") for run in measured], 1, hue)
        low, high = (measured[0].held_out_series(f"val/held_out/{end}").values for end in ("low", "high"))
        if len(measured) == 1 and len(low) == len(high) == len(curve.x):
            curve = Curve(curve.name, curve.x, curve.y, low, high, hue=hue)
        curves.append(curve)
    panels = (Panel("held-out score", tuple(curves)),) if any(len(curve.x) > 2 for curve in curves) else ()
    several = any(len(method.runs) > 1 for method in methods)
    over = "over seeds by Student's t, of two seeds their range" if several else "bootstrapped over prompts"
    caption = f"Every evaluation of the held-out prompts, prior weights; 95 % intervals {over}."
    return Views("score", "Over time", "Held-out score over time", caption, (), {(): CourseFigure(panels)})


def _criteria(methods: Sequence[Method]) -> Views:
    several = len(methods) > 1 or len(methods[0].runs) > 1
    parts = {method.label if len(method.runs) == 1 else f"{method.label}, {len(method.runs)} seeds": method for method in methods}
    runs = {title: Method(title, (run,), (None,)) for method in methods for title, run in method.titles}
    views: dict[Choice, Figure] = {}
    most = 0
    for title, method in (parts | (runs if len(runs) <= _MOST_RUNS else {})).items():
        changes, score = criteria_of(method), score_of(method)
        most = max(most, len(changes))
        whole = {"all, by prior weight": score} if score and len(changes) > 1 else {}
        ordered = dict(sorted(changes.items(), key=lambda item: item[1].after.value))
        views[(title,) if several else ()] = change_figure({**whole, **ordered} if changes else {}, "held-out score")
    few = f" The {_MOST_ROWS} that moved most." if most > _MOST_ROWS else ""
    over = " over seeds, or over prompts for a single run" if several else " over prompts"
    caption = f"Held-out prompts before (rings) and after training (dots), 95 % intervals{over} where they are known; the least met on top.{few}"
    return Views("criteria", "Before and after", "Held-out scores before and after", caption, ("of",) if several else (), views)


def hues(levels: Levels) -> dict[str, int]:
    """Hue of each label; where there are too many to tell apart, of the most telling ones, and -1 of the rest.

    Telling are those that end lowest, that moved most, and that get most weight.
    """
    labels = levels.labels
    if len(labels) <= _MOST_CURVES:
        return {label: hue for hue, label in enumerate(labels)}
    ends = {label: series.trailing(max(1, round(len(series.batches) / 20))) for label, series in levels.score.items()}
    shares = {label: series.values[-1] for label, series in levels.weight.items() if series.batches}
    lowest = sorted(labels, key=lambda label: ends[label][-1])
    moved = sorted(labels, key=lambda label: -abs(ends[label][-1] - ends[label][0]))
    heavy = sorted(shares, key=lambda label: -shares[label])
    telling = sorted({*lowest[:4], *moved[:3], *heavy[:3]})
    return {label: telling.index(label) if label in telling else -1 for label in labels}


def level_figure(several: Sequence[Levels], window: int) -> CourseFigure:
    """Score, saturation and weight of each label on one axis: of one run, or the mean over runs, with bands where few enough to see."""
    hue = hues(several[0])
    order = sorted(hue, key=lambda label: hue[label] >= 0)  # grey lines first: colours lie on top
    panels = []
    for part in ("score", "saturation", "weight"):
        found: list[Mapping[str, Series]] = [getattr(levels, part) for levels in several]
        labels = [label for label in order if all(label in known for known in found)]
        curves = [
            curve_over_seeds(label, [known[label] for known in found], window, hue[label], len(hue) <= _MOST_BANDS)
            for label in labels
        ]
        if any(curve.x for curve in curves):
            panels.append(Panel(part, tuple(curves), None if part == "weight" else (0, 1)))
    return CourseFigure(tuple(panels))


def share_figure(levels: Levels, window: int) -> CourseFigure:
    """Share of all weight, stacked; an area named "others" gathers what is too little to tell apart; empty for a single label."""
    if len(levels.share) < 2:
        return CourseFigure(())
    hue = hues(levels)
    means = {label: sum(series.values) / len(series.values) for label, series in levels.share.items()}
    ranked = sorted(means, key=lambda label: -means[label])
    shown = ranked if len(ranked) <= _MOST_CURVES else ranked[: _MOST_CURVES - 1]
    free = iter(sorted(set(range(_MOST_CURVES)) - {hue.get(label) for label in shown}))
    curves = []
    for label in shown:
        own = hue.get(label, -1)
        curves.append(over_time(label, levels.share[label], window, own if own >= 0 else next(free)))
    if rest := [levels.share[label] for label in means if label not in shown]:
        others = Series()
        for at, batch in enumerate(rest[0].batches):
            others.add(batch, sum(series.values[at] for series in rest))
        curves.append(over_time(f"{len(rest)} others", others, window, -1))
    return CourseFigure((Panel("share of the weight", tuple(curves), (0, 1), stacked=True),))


def _levels(methods: Sequence[Method], levels: RunLevels) -> Views:
    views: dict[Choice, Figure] = {}
    for method in methods:
        several = [found["key"] for run in method.runs if "key" in (found := levels[run.folder])]
        if len(several) > 1:
            title = f"{method.label}, mean of {len(several)} seeds"
            views[title, "criterion"] = level_figure(several, max(map(_window, method.runs)))
    views |= _by_label(methods, levels, lambda of_kind, window: level_figure([of_kind], window))
    many = any(len(of_kind.labels) > _MOST_CURVES for found in levels.values() for of_kind in found.values())
    caption = (
        "Of each criterion in training: the mean score; the saturation, its level once the reward is projected back on the criteria, 1 = no "
        "room left; and the mean weight in force of such a criterion."
        + _smooth(methods)
        + (" Of this many, those that end lowest, moved most or weigh most are in colour." if many else "")
    )
    return Views("levels", "Levels", "Score, saturation and weight", caption, ("run", "by"), views)


def _shares(methods: Sequence[Method], levels: RunLevels) -> Views:
    recorded = all(run.train.rows for _, run in _runs(methods))
    source = "" if recorded else " Where rollouts are not recorded: logged weights, scaled to sum to 1."
    caption = f"Share of all weight in a batch that goes to each criterion; together they make 1.{_smooth(methods)}{source}"
    views = _by_label(methods, levels, share_figure)
    return Views("shares", "Weight", "Who got the weight", caption, ("run", "by"), views)


def _by_label(methods: Sequence[Method], levels: RunLevels, make: Callable[[Levels, int], CourseFigure]) -> dict[Choice, Figure]:
    """A view a run and kind of label; of many runs by criterion alone."""
    runs, spelt = _runs(methods), {"key": "criterion", "name": "criterion name"}
    return {
        (title, spelt.get(kind, f"tag “{kind}”")): make(of_kind, _window(run))
        for title, run in runs[:_MOST_RUNS]
        for kind, of_kind in levels[run.folder].items()
        if kind == "key" or len(runs) <= 4
    }


def balance_figure(methods: Sequence[Method]) -> CourseFigure:
    """Worst criterion, Gini coefficient and strict completion; empty where each run has one criterion.

    Of a single run in training and on held-out prompts, of several in training alone, a curve a method.
    """
    runs = [run for method in methods for run in method.runs]
    if all(len(keys(run.metrics, "train/criterion/", "/score")) < 2 for run in runs):
        return CourseFigure(())
    panels = []
    for title, name in _BALANCE.items():
        curves = []
        if len(runs) == 1:
            curves = _logged(runs[0], {"training": name})
            held_out = runs[0].held_out_series(f"val/{name}")
            if held_out.batches:
                curves.append(Curve("held-out prompts", held_out.batches, held_out.values, hue=1, points=True))
        else:
            for hue, method in enumerate(methods):
                found = [run.metrics[f"train/{name}"] for run in method.runs if f"train/{name}" in run.metrics]
                if found:
                    curves.append(curve_over_seeds(method.label, found, max(map(_window, method.runs)), hue))
        if curves:
            panels.append(Panel(title, tuple(curves)))
    return CourseFigure(tuple(panels))


def _balance(methods: Sequence[Method]) -> Views:
    caption = (
        "Score of the least met criterion; Gini coefficient over criteria, 0 = even; share of rollouts that meet every criterion."
    )
    caption += _smooth(methods)
    if len(_runs(methods)) > 1:
        caption += " In training; bands are 95 % intervals over seeds by Student's t, of two seeds their range."
    return Views("balance", "Balance", "Balance", caption, (), {(): balance_figure(methods)})


def _votes(methods: Sequence[Method]) -> Views:
    """Votes, who is right, and signs of a collapse, of runs with votes or certainty."""
    caption = (
        "Without labels a rising share of the votes may mean that the policy becomes right, or that it agrees on something wrong; "
        "what is right is known only where gold answers are."
    )
    signs = ("train/vote/", "train/certainty/", "train/collapse/")
    runs = [(title, run) for title, run in _runs(methods)[:_MOST_RUNS] if any(name.startswith(signs) for name in run.metrics)]
    views: dict[Choice, Figure] = {(title,): course_figure(run, _VOTES) for title, run in runs}
    return Views("votes", "Votes", "Votes and signs of a collapse", caption + _smooth(methods, faint=True), ("run",), views)


def _health(methods: Sequence[Method]) -> Views:
    caption = f"In training, means over each batch.{_smooth(methods, faint=True)}"
    views: dict[Choice, Figure] = {(title,): course_figure(run, _HEALTH) for title, run in _runs(methods)[:_MOST_RUNS]}
    return Views("health", "Responses", "Reward and responses", caption, ("run",), views)


def course_figure(run: Run, parts: Parts) -> CourseFigure:
    """What a run logged, panel by panel; those without data are left out."""
    panels, hue = [], 0
    for title, names in parts.items():
        if curves := _logged(run, names, hue):
            panels.append(Panel(title, tuple(curves), (0, 1) if title.endswith("share") else None))
            hue += len(curves)
    return CourseFigure(tuple(panels))


def _logged(run: Run, names: Mapping[str, str], hue: int = 0) -> list[Curve]:
    known = [(label, run.metrics[f"train/{name}"]) for label, name in names.items() if f"train/{name}" in run.metrics]
    return [over_time(label, series, _window(run), hue + i, faint=True) for i, (label, series) in enumerate(known)]
