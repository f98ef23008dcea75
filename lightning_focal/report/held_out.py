"""Held-out scores before and after training, with intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_focal.functional import bootstrap_interval
from lightning_focal.report.figures import Point
from lightning_focal.report.metrics import keys
from lightning_focal.report.run import Run
from lightning_focal.types import level_key

__all__ = ["Change", "criterion_changes", "prompt_changes", "ratio_intervals", "score_change"]


@dataclass(frozen=True)
class Change:
    """A held-out quantity before and after training.

    Args:
        before: at the first evaluation.
        after: at the last one.
        difference: after minus before, paired by prompt where it has an interval.
        units: what the intervals are over, in words.
    """

    before: Point
    after: Point
    difference: Point
    units: str = ""

    @property
    def direction(self) -> int:
        """1 = rose, -1 = fell, 0 = the interval includes 0 or there is none."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return 0
        return 1 if low > 0 else -1 if high < 0 else 0


def score_change(run: Run) -> Change | None:
    """Prior-weighted score over held-out prompts, first evaluation against last; None without two of them."""
    if len(run.evaluations) < 2:
        return None
    first, last = run.evaluations[0]["scores"], run.evaluations[-1]["scores"]
    both = [key for key in first if key in last and first[key] is not None and last[key] is not None]
    before, after = _tensor(first[key] for key in both), _tensor(last[key] for key in both)
    points = [_point(*bootstrap_interval(values, run.level)) for values in (before, after, after - before)]
    return None if math.isnan(points[0].value) else Change(points[0], points[1], points[2], f"{len(both)} prompts")


def prompt_changes(run: Run) -> dict[str, float]:
    """Last score minus first of every held-out prompt that has both; empty without two evaluations."""
    if len(run.evaluations) < 2:
        return {}
    first, last = run.evaluations[0]["scores"], run.evaluations[-1]["scores"]
    return {key: last[key] - first[key] for key in first if first[key] is not None and last.get(key) is not None}


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
        before, after = (_known(measures.get(f"val/criterion/{key}/score")) for measures in (first, last))
        if not math.isnan(before + after):
            changes[key] = Change(Point(before), Point(after), Point(after - before))
    return changes


def _recorded_changes(rows: Sequence[Mapping[str, Any]], ends: list[int], level: float) -> dict[str, Change]:
    prompts = sorted({row["prompt_id"] for row in rows})
    at = {prompt: i for i, prompt in enumerate(prompts)}
    labels = sorted({level_key(c["name"], c["tags"] or []) for row in rows for c in row["criteria"]})
    column = {label: i for i, label in enumerate(labels)}
    sums, counts = torch.zeros(2, 2, len(prompts), len(labels), dtype=torch.float64)
    for row in rows:
        end = ends.index(row["batch"])
        for criterion in row["criteria"]:
            if criterion["score"] is not None:
                place = (end, at[row["prompt_id"]], column[level_key(criterion["name"], criterion["tags"] or [])])
                sums[place] += criterion["score"]
                counts[place] += 1
    means, lows, highs = ratio_intervals(sums, counts, level)
    found = {}
    for label, c in column.items():
        points = [_point(float(means[i, c]), float(lows[i, c]), float(highs[i, c])) for i in range(3)]
        if not math.isnan(points[2].value):
            asked = int((counts[..., c] > 0).all(0).sum())
            found[label] = Change(points[0], points[1], points[2], f"{asked} prompts")
    return found


def ratio_intervals(
    sums: Tensor, counts: Tensor, level: float, draws: int = 4000, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled means before, after, and their difference, with percentile bootstrap intervals over prompts.

    Whole prompts are resampled, the same ones for all columns and for before and after (Efron 1979).

    Args:
        sums: ``[2, N, C]`` sum of scores of each prompt and criterion, before and after.
        counts: ``[2, N, C]`` number of scores in them.
        level: coverage, in (0, 1).
        draws: number of resamples.
        seed: of the resampling.

    Returns:
        ``(mean, low, high)``, each ``[3, C]``: before, after, difference; NaN where nothing was judged.

    >>> sums, counts = torch.tensor([[[0.0], [1.0]], [[1.0], [1.0]]]).double(), torch.ones(2, 2, 1).double()
    >>> [values.squeeze(-1).tolist() for values in ratio_intervals(sums, counts, 0.95)]
    [[0.5, 1.0, 0.5], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    n = sums.shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (draws, n), generator=generator)
    times = torch.zeros(draws, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(draws, n, dtype=torch.float64))

    def with_difference(ratio: Tensor) -> Tensor:
        return torch.cat([ratio, ratio[1:] - ratio[:1]])

    means = with_difference(sums.sum(1) / counts.sum(1))
    resampled = with_difference((times @ sums) / (times @ counts))  # [3, draws, C]
    tail = (1 - level) / 2
    ends = torch.nanquantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=1)
    return means, ends[0], ends[1]


def _tensor(values: Any) -> Tensor:
    return torch.tensor([_known(value) for value in values], dtype=torch.float64)


def _known(value: Any) -> float:
    return math.nan if value is None else float(value)


def _point(value: float, low: float, high: float) -> Point:
    return Point(value) if math.isnan(low + high) else Point(value, low, high)
