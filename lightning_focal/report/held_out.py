"""Held-out scores before and after training: of a run with intervals over prompts, of several with intervals over seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_focal.intervals import bootstrap_interval, draws_of_units, student_interval
from lightning_focal.keys import log_key
from lightning_focal.report.figures import Point
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import keys
from lightning_focal.report.run import Run

__all__ = ["FEWEST_PROMPTS", "Change", "apart", "criteria_of", "criterion_changes", "measures_of", "score_change", "score_of"]

FEWEST_PROMPTS = 10
"""With fewer held-out prompts there is no verdict."""

_MEASURES = {
    "worst criterion": "val/balance/worst",
    "mean over criteria": "val/balance/mean",
    "every criterion met": "val/balance/strict_completion",
    "Gini over criteria": "val/balance/gini",
    "response tokens": "val/rollout/length",
}


@dataclass(frozen=True)
class Change:
    """A held-out quantity before and after training: at the first and at the last evaluation."""

    before: Point
    after: Point
    difference: Point  # after minus before, paired by prompt where it has an interval
    units: str = ""  # what the intervals are over, in words
    prompts: int = 0  # number of held-out prompts that have a score both times, of the run with the fewest

    def __str__(self) -> str:
        """Before and after, and on a second line the difference with its interval."""
        return f"{self.before.value:.3f} → {self.after.value:.3f}\n{self.difference:+z.3f}"

    @property
    def verdict(self) -> str:
        """``improved``, ``declined``, ``unclear`` (the interval includes 0), ``few`` (prompts: no verdict) or ``open`` (no interval)."""
        if not self.difference.known:
            return "open"
        if self.prompts < FEWEST_PROMPTS:
            return "few"
        return {1: "improved", -1: "declined", 0: "unclear"}[self.difference.direction]


def prompt_scores(run: Run, by: str = "scores") -> dict[str, tuple[float, float]]:
    """Score of every held-out prompt at the first and at the last evaluation, where it has both; empty without two of them."""
    if len(run.evaluations) < 2:
        return {}
    first, last = (run.evaluations[at].get(by, {}) for at in (0, -1))
    return {key: (first[key], last[key]) for key in first if first[key] is not None and last.get(key) is not None}


def score_change(run: Run, by: str = "scores") -> Change | None:
    """Prior-weighted score over held-out prompts, first evaluation against last; None without two of them.

    It is that ``by`` the training judge, or by the ``held_out_judge``.
    """
    scores = np.asarray(list(prompt_scores(run, by).values()), dtype=np.float64)
    if not len(scores):
        return None
    both = (scores[:, 0], scores[:, 1], scores[:, 1] - scores[:, 0])
    before, after, difference = (Point(*bootstrap_interval(values, run.level)) for values in both)
    return Change(before, after, difference, f"{len(scores)} prompts", len(scores))


def criterion_changes(run: Run) -> dict[str, Change]:
    """Score of each criterion key, pooled over held-out prompts, first evaluation against last; empty without two of them.

    Intervals are bootstrapped over prompts from the recorded rollouts; where those are missing there are none.
    """
    if len(run.evaluations) < 2:
        return {}
    ends = [int(run.evaluations[0]["batch"]), int(run.evaluations[-1]["batch"])]
    if ends[0] != ends[1] and run.held_out.batches == ends:
        return _recorded_changes(run.held_out.rows, ends, run.level)
    first, last = run.evaluations[0].get("measures", {}), run.evaluations[-1].get("measures", {})
    changes = {}
    for key in keys(last, "val/criterion/", "/score"):
        before, after = (measures.get(f"val/criterion/{key}/score") for measures in (first, last))
        if before is not None and after is not None:
            changes[key] = Change(Point(before), Point(after), Point(after - before), prompts=len(prompt_scores(run)))
    return changes


def _recorded_changes(rows: Sequence[Mapping[str, Any]], ends: list[int], level: float) -> dict[str, Change]:
    prompts = {prompt: i for i, prompt in enumerate(sorted({row["prompt_id"] for row in rows}))}
    judged = [
        (
            ends.index(row["batch"]),
            prompts[row["prompt_id"]],
            log_key(criterion["name"], criterion["tags"] or []),
            criterion["score"],
        )
        for row in rows
        for criterion in row["criteria"]
        if criterion["score"] is not None
    ]
    columns = {key: i for i, key in enumerate(sorted({key for _, _, key, _ in judged}))}
    sums, counts = np.zeros((2, 2, len(prompts), len(columns)))
    for end, prompt, key, score in judged:
        sums[end, prompt, columns[key]] += score
        counts[end, prompt, columns[key]] += 1
    intervals = np.stack(ratio_intervals(sums, counts, level))  # [mean low high, before after difference, C]
    asked = (counts > 0).all(0).sum(0).tolist()
    changes = {}
    for key, c in columns.items():
        before, after, difference = (Point(*intervals[:, part, c].tolist()) for part in range(3))
        if difference.value == difference.value:  # it was judged both times
            changes[key] = Change(before, after, difference, f"{asked[c]} prompts", int(asked[c]))
    return changes


def ratio_intervals(sums: Any, counts: Any, level: float, draws: int = 4000, seed: int = 0) -> tuple[Any, Any, Any]:
    """Pooled means before, after, and their difference, with percentile bootstrap intervals over prompts.

    Whole prompts are resampled, the same ones for all columns and for before and after (Efron 1979).
    ``sums`` and ``counts`` are those of the scores of each prompt and criterion, before and after, ``[2, N, C]``. Returned are
    ``(mean, low, high)``, each ``[3, C]``: before, after, difference; NaN where nothing was judged.

    >>> sums, counts = np.array([[[0.0], [1.0]], [[1.0], [1.0]]]), np.ones((2, 2, 1))
    >>> [values.squeeze(-1).tolist() for values in ratio_intervals(sums, counts, 0.95)]
    [[0.5, 1.0, 0.5], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    sums, counts, n = np.asarray(sums), np.asarray(counts), sums.shape[1]
    drawn = draws_of_units(n, draws, np.random.RandomState(seed))
    times = np.zeros((draws, n))
    np.add.at(times, (np.arange(draws)[:, None], drawn), 1.0)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # NaN where nothing was judged
        means, resampled = sums.sum(1) / counts.sum(1), (times @ sums) / (times @ counts)  # [2, C], [2, draws, C]
        means, resampled = (np.concatenate([ratio, ratio[1:] - ratio[:1]]) for ratio in (means, resampled))
        low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return means, low, high


def over_seeds(values: Sequence[float]) -> Point:
    """Mean and 95 % interval by Student's t; without an interval for a single seed."""
    return Point(*student_interval(values))


def score_of(method: Method, by: str = "scores") -> Change | None:
    """Held-out score of a method: over prompts where it has one run, over seeds where it has several; see :func:`score_change`."""
    return _pooled([change for run in method.runs if (change := score_change(run, by))])


def criteria_of(method: Method) -> dict[str, Change]:
    """The same of every criterion key that all its runs know."""
    first, *others = (criterion_changes(run) for run in method.runs)
    pooled = {key: _pooled([first[key], *(other[key] for other in others)]) for key in first if all(key in o for o in others)}
    return {key: change for key, change in pooled.items() if change}


def _pooled(changes: Sequence[Change]) -> Change | None:
    if len(changes) < 2:
        return changes[0] if changes else None
    parts = ([getattr(change, part).value for change in changes] for part in ("before", "after", "difference"))
    before, after, difference = map(over_seeds, parts)
    return Change(before.within(), after.within(), difference, f"{len(changes)} seeds", min(change.prompts for change in changes))


def measures_of(method: Method, evaluation: int = -1) -> dict[str, Point]:
    """Measures of held-out prompts beside the score, after training or at another evaluation: mean and interval over seeds."""
    found = {}
    measured = [run.evaluations[evaluation].get("measures", {}) for run in method.runs if run.evaluations]
    for label, name in _MEASURES.items():
        values = [float(measures[name]) for measures in measured if measures.get(name) is not None]
        if values:
            found[label] = over_seeds(values).within(math.inf if name == "val/rollout/length" else 1.0)
    return found


def apart(one: Method, other: Method) -> tuple[Point, str] | None:
    """Difference of the changes in held-out score, one minus the other, and what its interval is over.

    Over seeds where they share two or more, paired by seed; else, for one run each, over the prompts they share, paired by prompt.
    None where neither is so.
    """
    changes = [dict(zip(m.seeds, (score_change(run) for run in m.runs), strict=True)) for m in (one, other)]
    pairs = [(c, d) for s, c in changes[0].items() if s is not None and c and (d := changes[1].get(s))]
    if len(pairs) >= 2:
        point = over_seeds([first.difference.value - second.difference.value for first, second in pairs])
        return point, f"paired by {len(pairs)} seeds"
    if len(one.runs) > 1 or len(other.runs) > 1:
        return None
    ours, theirs = ({key: last - first for key, (first, last) in prompt_scores(m.runs[0]).items()} for m in (one, other))
    shared = [ours[prompt] - theirs[prompt] for prompt in ours if prompt in theirs]
    if len(shared) < 2:
        return None
    point = Point(*bootstrap_interval(shared))
    return point, f"paired by the {len(shared)} prompts they share; one seed each says nothing of other seeds"
