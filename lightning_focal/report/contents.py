"""Which figures a report has, from its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lightning_focal.report.comparisons import (
    balance_of_methods,
    change_figure,
    criteria_of,
    levels_over_seeds,
    score_of,
    scores_of_methods,
)
from lightning_focal.report.courses import (
    balance_course,
    health_course,
    hues,
    level_course,
    share_course,
    vote_course,
    window_for,
)
from lightning_focal.report.figures import CourseFigure, IntervalFigure, Views
from lightning_focal.report.levels import Levels
from lightning_focal.report.methods import Method
from lightning_focal.report.run import Run

__all__ = ["all_figures"]

_BY = {"key": "criterion", "name": "criterion name"}
_MOST_RUNS = 24  # with views of their own


def all_figures(methods: Sequence[Method], levels: Mapping[Path, Mapping[str, Levels]]) -> list[Views]:
    """Return the figures of a report on some methods, those without data left out.

    Args:
        methods: with their runs.
        levels: of each run, by its folder.
    """
    runs = [(method.title(run), run) for method in methods for run in method.runs]
    window = max(window_for(run.batches) for _, run in runs)
    smooth = "" if window == 1 else f" Lines are means over the latest {window} batches."
    faint = "" if window == 1 else " Faint lines are single batches."
    made = [
        _scores(methods),
        _score_course(methods),
        _criteria(methods),
        _per_run("votes", "Votes", "Votes and signs of a collapse", _VOTES + smooth + faint, runs, vote_course),
        _levels(methods, runs, levels, smooth),
        _shares(runs, levels, smooth),
        _balance(methods, runs, smooth),
        _per_run("health", "Responses", "Reward and responses", _HEALTH + smooth + faint, runs, health_course),
    ]
    return [views for views in made if views.views]


_VOTES = (
    "Without labels a rising share of the votes may mean that the policy becomes right, or that it agrees on something wrong; "
    "what is right is known only where gold answers are."
)
_HEALTH = "In training, means over each batch."


def _scores(methods: Sequence[Method]) -> Views:
    if len(methods) < 2:
        return Views("scores", "", "", "")
    changes = {method.label: change for method in methods if (change := score_of(method)) is not None}
    figure = change_figure(changes, "held-out score (prior weights)")
    caption = "Before and after training, 95 % intervals: over seeds by Student's t where a method has several, else bootstrapped over prompts."
    return Views("scores", "Methods", "Held-out score by method", caption, (), {(): _fitted(figure)} if changes else {})


def _fitted(figure: IntervalFigure) -> IntervalFigure:
    """Without a fixed axis where an interval goes past it."""
    points = [point for several in figure.series.values() for point in several if point is not None]
    inside = all((p.low or 0) >= 0 and (p.high or 0) <= 1 for p in points)
    return figure if inside else IntervalFigure(figure.rows, figure.series, figure.title)


def _score_course(methods: Sequence[Method]) -> Views:
    figure = scores_of_methods(methods)
    several = any(len(method.runs) > 1 for method in methods)
    over = "over seeds by Student's t, of two seeds their range" if several else "bootstrapped over prompts"
    caption = f"Every evaluation of the held-out prompts, prior weights; 95 % intervals {over}."
    return Views("score", "Over time", "Held-out score over time", caption, (), {(): figure} if figure.panels else {})


def _criteria(methods: Sequence[Method]) -> Views:
    several = len(methods) > 1 or len(methods[0].runs) > 1
    parts = {method.label if len(method.runs) == 1 else f"{method.label}, {len(method.runs)} seeds": method for method in methods}
    runs = {m.title(run): Method(m.label, (run,), (seed,)) for m in methods for run, seed in zip(m.runs, m.seeds, strict=True)}
    views: dict[tuple[str, ...], CourseFigure | IntervalFigure] = {}
    most = 0
    for title, method in (parts | (runs if len(runs) <= _MOST_RUNS else {})).items():
        changes, score = criteria_of(method), score_of(method)
        if changes:
            most = max(most, len(changes))
            whole = {"all, by prior weight": score} if score is not None and len(changes) > 1 else {}
            ordered = dict(sorted(changes.items(), key=lambda item: item[1].after.value))
            views[(title,) if several else ()] = _fitted(change_figure({**whole, **ordered}, "held-out score"))
    few = " The 24 that moved most." if most > 24 else ""
    over = " over seeds, or over prompts for a single run" if several else " over prompts"
    caption = f"Held-out prompts before (rings) and after training (dots), 95 % intervals{over} where they are known; the least met on top.{few}"
    return Views("criteria", "Before and after", "Held-out scores before and after", caption, ("of",) if several else (), views)


def _levels(
    methods: Sequence[Method], runs: Sequence[tuple[str, Run]], levels: Mapping[Path, Mapping[str, Levels]], smooth: str
) -> Views:
    views: dict[tuple[str, ...], CourseFigure | IntervalFigure] = {}
    for method in methods:
        several = [found["key"] for run in method.runs if "key" in (found := levels[run.folder])]
        if len(several) > 1:
            window = max(window_for(run.batches) for run in method.runs)
            views[f"{method.label}, mean of {len(several)} seeds", _BY["key"]] = levels_over_seeds(
                several, hues(several[0]), window
            )
    for title, run in runs[:_MOST_RUNS]:
        for kind, of_kind in levels[run.folder].items():
            if kind == "key" or len(runs) <= 4:
                views[title, _BY.get(kind, f"tag “{kind}”")] = level_course(of_kind, window_for(run.batches))
    many = any(len(of_kind.labels) > 10 for found in levels.values() for of_kind in found.values())
    caption = (
        "Of each criterion in training: the mean score; the saturation, its level once the reward is projected back on the criteria, 1 = no "
        "room left; and the mean weight in force of such a criterion."
        + smooth
        + (" Of this many, those that end lowest, moved most or weigh most are in colour." if many else "")
    )
    return Views(
        "levels", "Levels", "Score, saturation and weight", caption, ("run", "by"), {k: v for k, v in views.items() if _drawn(v)}
    )


def _drawn(figure: CourseFigure | IntervalFigure) -> bool:
    return bool(figure.panels if isinstance(figure, CourseFigure) else figure.rows)


def _shares(runs: Sequence[tuple[str, Run]], levels: Mapping[Path, Mapping[str, Levels]], smooth: str) -> Views:
    views: dict[tuple[str, ...], CourseFigure | IntervalFigure] = {}
    for title, run in runs[:_MOST_RUNS]:
        for kind, of_kind in levels[run.folder].items():
            figure = share_course(of_kind, window_for(run.batches))
            if figure.panels and (kind == "key" or len(runs) <= 4):
                views[title, _BY.get(kind, f"tag “{kind}”")] = figure
    recorded = all(run.train.rows for _, run in runs)
    source = "" if recorded else " Where rollouts are not recorded: logged weights, scaled to sum to 1."
    caption = f"Share of all weight in a batch that goes to each criterion; together they make 1.{smooth}{source}"
    return Views("shares", "Weight", "Who got the weight", caption, ("run", "by"), views)


def _balance(methods: Sequence[Method], runs: Sequence[tuple[str, Run]], smooth: str) -> Views:
    caption = (
        "Score of the least met criterion; Gini coefficient over criteria, 0 = even; share of rollouts that meet every criterion."
        + smooth
    )
    if len(runs) == 1:
        figure = balance_course(runs[0][1], window_for(runs[0][1].batches))
    else:
        figure = balance_of_methods(methods)
        caption += " In training; bands are 95 % intervals over seeds by Student's t, of two seeds their range."
    return Views("balance", "Balance", "Balance", caption, (), {(): figure} if figure.panels else {})


def _per_run(
    name: str, short: str, title: str, caption: str, runs: Sequence[tuple[str, Run]], make: Callable[[Run, int], CourseFigure]
) -> Views:
    made = {(label,): make(run, window_for(run.batches)) for label, run in runs[:_MOST_RUNS]}
    return Views(name, short, title, caption, ("run",), {choice: figure for choice, figure in made.items() if figure.panels})
