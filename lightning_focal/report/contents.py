"""Which figures a report has, made from its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_focal.report.figures import CourseFigure, Curve, Figure, IntervalFigure, Marks, Panel, Point, Views
from lightning_focal.report.held_out import Change, criteria_of, over_seeds, score_of
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
Parts = Mapping[tuple[str, str, str], Mapping[str, str]]
"""Title, unit and note of a panel -> label -> what is logged in training. The axis of a share goes from 0 to 1."""

_VOTES: Parts = {
    ("votes and accuracy", "share", "Only gold answers tell what is right."): {
        "votes for the label": "vote/share",
        "labels that are right": "vote/accuracy",
        "answers that are right": "answer/accuracy",
    },
    ("missing answers, views that agree", "share", ""): {
        "responses without an answer": "vote/unanswered",
        "groups without a label": "vote/no_label",
        "student and teacher agree": "vote/teacher_agreement",
        "both wordings agree": "vote/swap_agreement",
    },
    ("distinct answers in a group", "", ""): {"distinct answers": "vote/distinct"},
    ("self-certainty", "nats a token", ""): {"self-certainty": "certainty/self_certainty"},
    ("signs of a collapse", "", "Number of signs that are seen at this batch."): {"signs": "collapse/signs"},
}
_HEALTH: Parts = {
    ("reward", "", "The policy is trained on the reward. The static score is that of the same responses under fixed weights."): {
        "reward": "reward/mean",
        "static score": "reward/static",
    },
    ("response length", "tokens", ""): {"training": "rollout/length"},
    ("cut off, failed", "share", "Cut off: at the limit of tokens. Failed: without a verdict of the judge."): {
        "responses cut off": "rollout/truncated",
        "judgements failed": "judge/failure_rate",
    },
    (
        "turns",
        "a rollout",
        "With an environment: turns of the policy, and its tool calls. Failed: share of calls that gave an error.",
    ): {
        "turns": "rollout/turns",
        "tool calls": "rollout/tool_calls",
        "failed": "rollout/tool_errors",
    },
    (
        "groups left out",
        "",
        "Dynamic sampling leaves out groups without a contrast. Solved: every rollout has reward 1. Hopeless: 0.",
    ): {
        "left out": "sampling/rejected",
        "solved": "sampling/solved",
        "hopeless": "sampling/hopeless",
    },
    ("entropy and divergence", "nats a token", "A low entropy: the policy says nearly the same each time."): {
        "entropy": "policy/entropy",
        "KL to the reference": "policy/kl",
    },
}
_BALANCE: Parts = {
    ("worst criterion", "", "Score of the criterion that is met least."): {"training": "balance/worst"},
    ("Gini coefficient", "", "0: all criteria are met alike. Towards 1: few have all of the score."): {
        "training": "balance/gini"
    },
    ("strict completion", "", "Share of responses that meet every criterion."): {"training": "balance/strict_completion"},
}
_THEORY: Parts = {
    (
        "variance of the score",
        "",
        "Within groups: without it a criterion teaches nothing. Of the judge: by how much it differs when asked twice.",
    ): {
        "variance within groups": "theory/variance",
        "variance of the judge": "theory/judge_variance",
    },
    (
        "unanimous, informedness",
        "share",
        "Unanimous: groups whose rollouts all have one score. Informedness: 1 is a judge without errors, 0 one that guesses.",
    ): {
        "unanimous groups": "theory/unanimous",
        "informedness": "theory/informedness",
    },
    (
        "pairs ordered anew",
        "share",
        "Pairs of rollouts that the reward orders the other way than static weights. Kendall distance: ties count half.",
    ): {
        "flipped pairs": "order/flipped",
        "Kendall distance": "order/kendall_distance",
    },
    ("projection tilt", "", "Saturation minus score, mean over criteria. Near 0 saturation says no more than the score."): {
        "training": "balance/tilt"
    },
    (
        "weight that goes with length",
        "share",
        "Weight times the correlation of each criterion with length. If it rises, the reward pays for longer or shorter responses.",
    ): {"training": "balance/length_weight"},
}
_OF_CRITERIA = {
    "theory/variance": "train/criterion/{}/variance",
    "theory/judge_variance": "train/judge_variance/{}",
    "theory/unanimous": "train/criterion/{}/contrastive",
    "theory/informedness": "train/informedness/{}",
}
_DIAGNOSTICS = (
    "What theory asks of a weighting, in training. A policy learns a criterion from the variance V of its score within groups. A judge that "
    "errs adds a variance J, so what is measured within groups is V + J. By theory a criterion's weight should be in proportion to V / (V + J)."
)
_JUDGES = {"training judge": "val/held_out", "held-out judge": "val/held_out_judge"}
_PART = "The held-out judge trains nothing. If its score falls while the other one rises, the policy learns to please its judge."
_MEAN = "mean over criteria"
_QUANTITIES = {
    "score": "How far responses meet the criterion. 1: every response meets it.",
    "saturation": "The score where responses with more reward count more. 1: no room is left.",
    "saturation minus score": "Above 0: more reward goes with meeting the criterion. Near 0: the reward does not depend on it.",
    "weight": "The part of a prompt's reward that the criterion decides in this batch.",
}
_SPANS = {"score": (0, 1), "saturation": (0, 1)}


def shows(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """What the switch of a report chooses from: the methods, every run, or one run alone; each a list of what is drawn together."""
    alone = {title: [Method(title, (run,), (None,))] for method in methods for title, run in method.titles}
    if len(alone) == 1:
        return alone
    together = {"methods (means)": list(methods)} if len(alone) > len(methods) else {}
    every = {"every run": [one for one, *_ in alone.values()]}
    return together | every | (alone if len(alone) <= _MOST_RUNS else {})


def all_figures(methods: Sequence[Method], levels: RunLevels) -> list[Views]:
    """Return the figures of a report on some methods, those without data left out; levels are by run folder."""
    several = any(len(method.runs) > 1 for method in methods)
    seeds = " Bands are 95 % intervals over seeds by Student's t, of two seeds their range." if several else ""
    prompts = seeds or " Bands are 95 % intervals, bootstrapped over prompts."
    runs = [run for method in methods for run in method.runs]
    window = max(map(_window, runs))
    smooth = f" Lines are means over the latest {window} batches." if window > 1 else ""
    few = f" Of more than {_MOST_CURVES} criteria those that end lowest, moved most or weigh most are shown, or in colour."
    many = few if any(len(of.labels) > _MOST_CURVES for found in levels.values() for of in found.values()) else ""
    logged = "" if all(run.train.rows for run in runs) else " Without recorded rollouts: logged weights, scaled to sum to 1."
    bars = (
        "On held-out prompts: rings before training, dots after it. Bars are 95 % intervals where they are known: over seeds by Student's t for "
        "a method with several, else bootstrapped over prompts, and cut to 0 and 1, where scores end."
        f"{f' The {_MOST_ROWS} that moved most.' if max(len(criteria_of(method)) for method in methods) >= _MOST_ROWS else ''}"
    )
    votes = "A rising share of the votes may mean that the policy becomes right, or that it agrees on something wrong."
    shared = "Share of all weight in a batch that goes to each criterion; together they make 1."
    drawn = shows(methods)

    def of_methods(make: Callable[[list[Method]], Figure]) -> dict[Choice, Figure]:
        return {(show,): make(of) for show, of in drawn.items()}

    by = ("show", "by", "of")
    made = [
        Views(
            "score", "Score over time", f"Every evaluation of the held-out prompts.{prompts}", by[:1], of_methods(_score_course)
        ),
        Views("criteria", "Before and after", bars, by[:1], of_methods(_criteria)),
        Views("votes", "Votes", votes + smooth, by[:1], of_methods(lambda of: course_figure(of, _VOTES))),
        Views("levels", "Levels", f"Of each criterion in training.{smooth}{seeds}{many}", by, _by_label(drawn, levels, _levels)),
        Views("shares", "Share of the weight", f"{shared}{smooth}{logged}", by[:2], _by_label(drawn, levels, _shares)),
        Views("balance", "Balance", f"Between criteria, in training.{smooth}{seeds}", by[:1], of_methods(balance_figure)),
        Views("theory", "Diagnostics", _DIAGNOSTICS + smooth + seeds, ("show", "criterion"), _theory(drawn, levels)),
        Views("health", "Responses", f"In training.{smooth}{seeds}", by[:1], of_methods(lambda of: course_figure(of, _HEALTH))),
    ]
    drawn_views = [replace(views, views={choice: figure for choice, figure in views.views.items() if figure}) for views in made]
    return [views for views in drawn_views if views.views]


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


def curve_over_seeds(
    name: str, several: Sequence[Series], window: int, hue: int, banded: bool = True, share: bool = False
) -> Curve:
    """Mean over runs of their trailing means, at the batches that all have, with an interval over seeds; of two seeds their range.

    The interval of a ``share`` is cut to [0, 1].
    """
    curves = [over_time(name, series, window, hue) for series in several]
    if len(curves) == 1:
        return curves[0]
    known = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    common = [batch for batch in curves[0].x if all(batch in values for values in known)]
    points = [_mean_and_interval([values[batch] for values in known]) for batch in common]
    points = [point.within() for point in points] if share else points
    mean, low, high = ([getattr(point, part) for point in points] for part in ("value", "low", "high"))
    return Curve(name, common, mean, low, high, hue=hue, banded=banded)


def _mean_and_interval(values: Sequence[float]) -> Point:
    return Point(sum(values) / 2, min(values), max(values)) if len(values) == 2 else over_seeds(values)


def change_figure(several: Mapping[str, Mapping[str, Change]]) -> IntervalFigure:
    """Before and after, a row a criterion, of each label; where there are too many rows, those that moved most."""
    changes = [(row, change) for of in several.values() for row, change in of.items()]
    moved: dict[str, float] = {}
    for row, change in changes:
        moved[row] = max(moved.get(row, 0.0), abs(change.difference.value))
    rows = tuple(row for row in moved if row in sorted(moved, key=lambda row: -moved[row])[:_MOST_ROWS])
    none = Change(Point(math.nan), Point(math.nan), Point(math.nan))
    marks = []
    for hue, (label, of) in enumerate(several.items()):
        if not of:
            continue
        kept = [of.get(row, none) for row in rows]
        marks.append(Marks(label, [change.before for change in kept], [change.after for change in kept], hue))
    inside = all(0 <= point.value <= 1 for _, change in changes for point in (change.before, change.after))
    return IntervalFigure(rows, tuple(marks), "held-out score", (0, 1) if inside else None)


def _criteria(methods: Sequence[Method]) -> IntervalFigure:
    several = {}
    for method in methods:
        changes, score = criteria_of(method), score_of(method)
        ordered = dict(sorted(changes.items(), key=lambda item: item[1].after.value))
        whole = {"all criteria": score} if score and len(changes) != 1 else {}
        several[method.label if len(methods) > 1 else ""] = whole | ordered
    return change_figure(several)


def _score_course(methods: Sequence[Method]) -> CourseFigure:
    """Held-out score by the judge that trains and by the one that does not: of one method in one panel, of several a panel each."""
    banded, under = len(methods) <= _MOST_BANDS, "Under the rubric's own weights, whatever weights the policy is trained with."
    found: dict[str, list[Curve]] = {}
    for judge, name in _JUDGES.items():
        for hue, method in enumerate(methods):
            measured = [run for run in method.runs if run.held_out_series(f"{name}/mean").batches]
            if not measured:
                continue
            curve = curve_over_seeds(
                method.label, [run.held_out_series(f"{name}/mean") for run in measured], 1, hue, banded, share=True
            )
            low, high = (measured[0].held_out_series(f"{name}/{end}").values for end in ("low", "high"))
            if len(measured) == 1 and len(low) == len(high) == len(curve.x):
                curve = replace(curve, low=low, high=high, banded=banded)
            found.setdefault(judge, []).append(curve)
    if len(found) < 2:
        panels = [
            Panel("held-out score", tuple(curves), note=under) for curves in found.values() if any(len(c.x) > 2 for c in curves)
        ]
    elif len(methods) == 1:
        both = tuple(replace(curves[0], name=judge, hue=hue) for hue, (judge, curves) in enumerate(found.items()))
        panels = [Panel("held-out score", both, note=f"{under} {_PART}")]
    else:
        panels = [
            Panel(f"held-out score by the {judge}", tuple(curves), note=note)
            for (judge, curves), note in zip(found.items(), (under, _PART), strict=True)
        ]
    return CourseFigure(tuple(panels))


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
    """A panel a quantity, a curve a label: of one run, or the mean over runs, with bands where few enough to see."""
    hue = hues(several[0])
    order = sorted(hue, key=lambda label: hue[label] >= 0)  # grey lines first: colours lie on top
    panels = []
    for part, note in _QUANTITIES.items():
        curves = [_level(label, several, part, label, window, hue[label], len(hue) <= _MOST_BANDS) for label in order]
        panels.append(Panel(part, tuple(filter(None, curves)), _SPANS.get(part), note=note))
    return CourseFigure(tuple(panel for panel in panels if panel.curves))


def compared_figure(several: Mapping[str, Sequence[Levels]], part: str, window: int) -> CourseFigure:
    """One quantity, a panel a label, a curve for each of several methods or runs."""
    labels = dict.fromkeys(label for levels in several.values() for label, hue in hues(levels[0]).items() if hue >= 0)
    panels: list[Panel] = []
    for label in list(labels)[:_MOST_CURVES]:
        many = len(several) > _MOST_BANDS
        curves = [_level(name, of, part, label, window, hue, not many) for hue, (name, of) in enumerate(several.items())]
        panels.append(Panel(label, tuple(filter(None, curves)), _SPANS.get(part), note="" if panels else _QUANTITIES[part]))
    return CourseFigure(tuple(panel for panel in panels if panel.curves))


def _level(name: str, several: Sequence[Levels], part: str, label: str, window: int, hue: int, banded: bool) -> Curve | None:
    found = [_part(levels, part).get(label) for levels in several]
    known = [series for series in found if series and series.batches]
    return curve_over_seeds(name, known, window, hue, banded, "minus" not in part) if len(known) == len(several) else None


def _part(levels: Levels, part: str) -> Mapping[str, Series]:
    if part != "saturation minus score":
        found: Mapping[str, Series] = getattr(levels, part)
        return found
    return {label: levels.saturation[label].minus(score) for label, score in levels.score.items() if label in levels.saturation}


def share_figure(several: Mapping[str, Sequence[Levels]], window: int) -> CourseFigure:
    """Share of all weight, stacked, a panel for each of several methods or runs, means over its runs; empty for a single label.

    An area named "others" gathers what is too little to tell apart.
    """
    if any(len(levels.share) < 2 for of in several.values() for levels in of):
        return CourseFigure(())
    first = next(iter(several.values()))[0]
    hue = hues(first)
    panels: list[Panel] = []
    means = {label: sum(series.values) / len(series.values) for label, series in first.share.items()}
    for name, of in several.items():
        known = [label for label in of[0].share if all(label in levels.share for levels in of)]
        ranked = sorted(known, key=lambda label: -means.get(label, 0.0))
        shown = ranked if len(ranked) <= _MOST_CURVES else ranked[: _MOST_CURVES - 1]
        free = iter(sorted(set(range(_MOST_CURVES)) - {hue.get(label) for label in shown}))
        tints = {label: hue[label] if hue.get(label, -1) >= 0 else next(free) for label in shown}
        curves = [curve_over_seeds(label, [levels.share[label] for levels in of], window, tints[label], False) for label in shown]
        if rest := len(ranked) - len(shown):
            left = [1 - sum(values) for values in zip(*(curve.y for curve in curves), strict=True)]
            curves.append(Curve(f"{rest} others", curves[0].x, left, hue=-1))
        panels.append(Panel(name if len(several) > 1 else "share of the weight", tuple(curves), (0, 1), stacked=True))
    return CourseFigure(tuple(panels))


def _by_label(
    drawn: Mapping[str, Sequence[Method]],
    levels: RunLevels,
    make: Callable[[dict[str, list[Levels]], int], Mapping[Choice, Figure]],
) -> dict[Choice, Figure]:
    """The views of each kind of label that all runs have; of many runs by criterion alone."""
    views: dict[Choice, Figure] = {}
    spelt = {"key": "criterion", "name": "criterion name"}
    for show, methods in drawn.items():
        runs = [run for method in methods for run in method.runs]
        for kind in levels[runs[0].folder]:
            if all(kind in levels[run.folder] for run in runs) and (kind == "key" or len(levels) <= 4):
                found = {method.label: [levels[run.folder][kind] for run in method.runs] for method in methods}
                made = make(found, max(map(_window, runs)))
                views |= {(show, spelt.get(kind, f"tag “{kind}”"), *more): figure for more, figure in made.items()}
    return views


def _levels(several: dict[str, list[Levels]], window: int) -> dict[Choice, Figure]:
    if len(several) == 1:
        return {(): level_figure(next(iter(several.values())), window)}
    return {(part,): compared_figure(several, part, window) for part in _QUANTITIES}


def _shares(several: dict[str, list[Levels]], window: int) -> dict[Choice, Figure]:
    return {(): share_figure(several, window)}


def _theory(drawn: Mapping[str, Sequence[Method]], levels: RunLevels) -> dict[Choice, Figure]:
    """Diagnostics, means over criteria; of few runs also of each criterion, in the panels that know one."""
    views: dict[Choice, Figure] = {}
    own = {title: parts for title, parts in _THEORY.items() if set(parts.values()) & set(_OF_CRITERIA)}
    for show, methods in drawn.items():
        first = levels[methods[0].runs[0].folder].get("key", Levels())
        some = [label for label, hue in hues(first).items() if hue >= 0] if len(levels) <= 4 and len(first.labels) > 1 else []
        for of in (_MEAN, *some):
            told = [
                replace(method, runs=tuple(_told(run, "" if of == _MEAN else of) for run in method.runs)) for method in methods
            ]
            views[show, of] = course_figure(told, _THEORY if of == _MEAN else own)
    return views


def _told(run: Run, key: str) -> Run:
    """The run with the diagnostics of a criterion key among its metrics; of all keys without one."""
    found = dict(run.metrics)
    for name, column in _OF_CRITERIA.items():
        columns = [column.format(one) for one in ([key] if key else keys(run.metrics, *column.split("{}")))]
        known = [
            pair
            for of in columns
            if of in run.metrics
            for pair in zip(run.metrics[of].batches, run.metrics[of].values, strict=True)
        ]
        series = Series()
        for batch, value in sorted(known):
            series.add(batch, 1 - value if name == "theory/unanimous" else value)
        found |= {f"train/{name}": series} if known else {}
    return replace(run, metrics=found)


def balance_figure(methods: Sequence[Method]) -> CourseFigure:
    """Worst criterion, Gini coefficient and strict completion; empty where each run has one criterion."""
    single = all(len(keys(run.metrics, "train/criterion/", "/score")) < 2 for method in methods for run in method.runs)
    return CourseFigure(()) if single else course_figure(methods, _BALANCE)


def course_figure(methods: Sequence[Method], parts: Parts) -> CourseFigure:
    """What was logged, those without data left out: of one run panel by panel, of several a panel a measure, a curve a method.

    A panel of a single measure of one run has the held-out prompts beside the training.
    """
    panels = []
    one = methods[0].runs[0] if len(methods) == len(methods[0].runs) == 1 else None
    banded = len(methods) <= _MOST_BANDS
    for (title, unit, note), names in parts.items():
        span, measured = (0, 1) if unit == "share" else None, f", {unit}" if unit else ""
        if one:
            known = {label: series for label, name in names.items() if (series := one.metrics.get(f"train/{name}"))}
            curves = [
                over_time(label, series, _window(one), hue, faint=True) for hue, (label, series) in enumerate(known.items())
            ]
            held_out = one.held_out_series(f"val/{next(iter(names.values()))}") if len(names) == 1 else Series()
            if curves and held_out.batches:
                curves.append(Curve("held-out prompts", held_out.batches, held_out.values, hue=1, points=True))
            panels += [Panel(title + measured, tuple(curves), span, note=note)] if curves else []
            continue
        for label, name in names.items():
            curves = []
            for hue, method in enumerate(methods):
                if found := [run.metrics[f"train/{name}"] for run in method.runs if f"train/{name}" in run.metrics]:
                    window = max(map(_window, method.runs))
                    curves.append(
                        curve_over_seeds(method.label, found, window, hue, banded, parts is _BALANCE or unit == "share")
                    )
            what = (title if len(names) == 1 else label) + measured
            panels += [Panel(what, tuple(curves), span, note=note)] if curves else []
    return CourseFigure(tuple(panels))
