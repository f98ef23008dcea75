"""Figures of one run over rollout batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from lightning_focal.report.figures import CourseFigure, Curve, Panel
from lightning_focal.report.levels import Levels
from lightning_focal.report.metrics import Series, keys
from lightning_focal.report.run import Run

__all__ = ["balance_course", "health_course", "level_course", "over_time", "share_course", "vote_course", "window_for"]

_MOST_CURVES = 10  # in colour or dashed; more cannot be told apart
_MOST_POINTS = 300


def window_for(batches: int) -> int:
    """Number of batches that a curve averages over: a twentieth of the run, at least 1.

    >>> window_for(16), window_for(200)
    (1, 10)
    """
    return max(1, round(batches / 20))


def over_time(name: str, series: Series, window: int, hue: int, faint: bool = False) -> Curve:
    """A curve of trailing means, thinned to a few hundred points; with the values themselves behind it where ``faint``."""
    smooth, raw = series.trailing(window), series.values
    kept = list(range(0, len(smooth), max(1, math.ceil(len(smooth) / _MOST_POINTS))))
    if kept and kept[-1] != len(smooth) - 1:
        kept.append(len(smooth) - 1)
    return Curve(
        name=name,
        x=[series.batches[i] for i in kept],
        y=[smooth[i] for i in kept],
        faint=[raw[i] for i in kept] if faint and window > 1 else (),
        hue=hue,
    )


def hues(levels: Levels) -> dict[str, int]:
    """Hue of each label; where there are too many to tell apart, of the most telling ones, and -1 of the rest.

    Telling are those that end lowest, that moved most, and that get most weight.
    """
    labels = levels.labels
    if len(labels) <= _MOST_CURVES:
        return {label: hue for hue, label in enumerate(labels)}
    ends = {label: series.trailing(window_for(len(series.batches))) for label, series in levels.score.items()}
    shares = {label: series.values[-1] for label, series in levels.weight.items() if series.batches}
    lowest = sorted(labels, key=lambda label: ends[label][-1])
    moved = sorted(labels, key=lambda label: -abs(ends[label][-1] - ends[label][0]))
    heavy = sorted(shares, key=lambda label: -shares[label])
    telling = sorted({*lowest[:4], *moved[:3], *heavy[:3]})
    return {label: telling.index(label) if label in telling else -1 for label in labels}


def level_course(levels: Levels, window: int) -> CourseFigure:
    """Score, saturation and weight of each label on one axis."""
    hue = hues(levels)
    order = sorted(levels.labels, key=lambda label: hue[label] >= 0)  # grey lines first: colours lie on top
    parts = (("score", levels.score), ("saturation", levels.saturation), ("weight", levels.weight))
    panels = []
    for title, found in parts:
        curves = tuple(over_time(label, found[label], window, hue[label]) for label in order if found.get(label))
        if any(curve.x for curve in curves):
            panels.append(Panel(title, curves, None if title == "weight" else (0, 1)))
    return CourseFigure(tuple(panels))


def share_course(levels: Levels, window: int) -> CourseFigure:
    """Share of all weight, stacked; an area named "others" gathers what is too little to tell apart; empty for a single label."""
    if len(levels.share) < 2:
        return CourseFigure(())
    hue = hues(levels)
    means = {label: sum(series.values) / len(series.values) for label, series in levels.share.items() if series.batches}
    ranked = sorted(means, key=lambda label: -means[label])
    shown = ranked if len(ranked) <= _MOST_CURVES else ranked[: _MOST_CURVES - 1]
    free = iter(sorted(set(range(_MOST_CURVES)) - {hue.get(label) for label in shown}))
    curves, others = [], Series()
    for label in shown:
        own = hue.get(label, -1)
        curves.append(over_time(label, levels.share[label], window, own if own >= 0 else next(free)))
    rest = [levels.share[label] for label in means if label not in shown]
    if rest:
        for at, batch in enumerate(rest[0].batches):
            others.add(batch, sum(series.values[at] for series in rest))
        curves.append(over_time(f"{len(rest)} others", others, window, -1))
    return CourseFigure((Panel("share of the weight", tuple(curves), (0, 1), stacked=True),))


def balance_course(run: Run, window: int) -> CourseFigure:
    """Worst criterion, Gini coefficient and strict completion, in training and on held-out prompts; empty for a single criterion."""
    panels: list[Panel] = []
    if len(keys(run.metrics, "train/criterion/", "/score")) < 2:
        return CourseFigure(())
    for title, name, span in (
        ("worst criterion", "balance/worst", None),
        ("Gini coefficient", "balance/gini", None),
        ("strict completion", "balance/strict_completion", None),
    ):
        curves = _logged(run.metrics, {"training": f"train/{name}"}, window)
        held_out = evaluation_series(run, f"val/{name}")
        if held_out.batches:
            curves.append(Curve("held-out prompts", held_out.batches, held_out.values, hue=1, points=True))
        if curves:
            panels.append(Panel(title, tuple(curves), span))
    return CourseFigure(tuple(panels))


def evaluation_series(run: Run, name: str) -> Series:
    """A measure of the held-out prompts, evaluation by evaluation."""
    series = Series()
    for entry in run.evaluations:
        value = entry.get("measures", {}).get(name)
        if value is not None and (not series.batches or entry["batch"] > series.batches[-1]):
            series.add(int(entry["batch"]), float(value))
    return series


_VOTES: tuple[tuple[str, tuple[float, float] | None, Mapping[str, str]], ...] = (
    (
        "votes and accuracy, share",
        (0, 1),
        {
            "votes for the label": "train/vote/share",
            "labels that are right": "train/vote/accuracy",
            "answers that are right": "train/answer/accuracy",
        },
    ),
    (
        "answers that are missing, views that agree; share",
        (0, 1),
        {
            "responses without an answer": "train/vote/unanswered",
            "groups without a label": "train/vote/no_label",
            "student and teacher agree": "train/vote/teacher_agreement",
            "both wordings agree": "train/vote/swap_agreement",
        },
    ),
    ("distinct answers in a group", None, {"distinct answers": "train/vote/distinct"}),
    (
        "entropy and certainty, nats a token",
        None,
        {"entropy of the policy": "train/policy/entropy", "self-certainty": "train/certainty/self_certainty"},
    ),
    ("signs of a collapse", None, {"signs in force": "train/collapse/signs"}),
)


def vote_course(run: Run, window: int) -> CourseFigure:
    """Votes, who is right, and signs of a collapse; empty for a run with neither votes nor certainty."""
    if not any(name.startswith(("train/vote/", "train/certainty/", "train/collapse/")) for name in run.metrics):
        return CourseFigure(())
    return _course(run, _VOTES, window)


_HEALTH: tuple[tuple[str, tuple[float, float] | None, Mapping[str, str]], ...] = (
    ("reward", None, {"in force": "train/reward/mean", "static weights": "train/reward/static"}),
    ("response length, tokens", None, {"response length": "train/rollout/length"}),
    (
        "share of responses, of judgements",
        None,
        {"cut off by the limit": "train/rollout/truncated", "judgements that failed": "train/judge/failure_rate"},
    ),
    ("entropy and divergence, nats a token", None, {"entropy": "train/policy/entropy", "KL to the reference": "train/policy/kl"}),
)


def health_course(run: Run, window: int) -> CourseFigure:
    """Reward, response length, cut-off responses and failed judgements, entropy and KL."""
    return _course(run, _HEALTH, window)


def _course(run: Run, parts: Iterable[tuple[str, tuple[float, float] | None, Mapping[str, str]]], window: int) -> CourseFigure:
    panels, hue = [], 0
    for title, span, names in parts:
        curves = _logged(run.metrics, names, window, hue)
        hue += len(curves)
        if curves:
            panels.append(Panel(title, tuple(curves), span))
    return CourseFigure(tuple(panels))


def _logged(metrics: Mapping[str, Series], names: Mapping[str, str], window: int, hue: int = 0) -> list[Curve]:
    known: Sequence[tuple[str, Series]] = [(label, metrics[name]) for label, name in names.items() if name in metrics]
    return [over_time(label, series, window, hue + i, faint=True) for i, (label, series) in enumerate(known)]
