"""How evenly the criteria are met: counts by criterion, and figures over criteria."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_scores, expect_shape, kept
from lightning_focal.functional.groups import group_spread
from lightning_focal.functional.saturation import scatter_sums
from lightning_focal.functional.weighting import name_columns

__all__ = [
    "CriterionSums",
    "bottom_quartile_mean",
    "criterion_sums",
    "effective_number",
    "gini",
    "min_over_mean",
    "saturated_mass",
    "spread_over_criteria",
    "strict_completion",
    "worst_criterion",
]


def _seen(levels: Tensor) -> Tensor:
    expect_shape("levels", levels, "K")
    return levels[~levels.isnan()]


def worst_criterion(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest level and its position; ``(NaN, -1)`` if none was seen.

    Args:
        levels: ``[K]``, one a criterion, NaN = never seen; the same for all functions over criteria.

    >>> worst_criterion(torch.tensor([0.75, torch.nan, 0.25]))
    (tensor(0.2500), tensor(2))
    """
    if not len(_seen(levels)):
        return levels.new_tensor(torch.nan), torch.tensor(-1, device=levels.device)
    position = levels.nan_to_num(torch.inf).argmin()
    return levels[position], position


def min_over_mean(levels: Tensor) -> Tensor:
    """``min / mean`` over criteria: 1 = even, 0 = one is left behind; 1 where all are 0.

    >>> min_over_mean(torch.tensor([0.75, 0.25]))
    tensor(0.5000)
    """
    seen = _seen(levels)
    if not len(seen):
        return levels.new_tensor(torch.nan)
    return seen.min() / seen.mean() if bool(seen.max() > 0) else torch.ones_like(seen[0])


def gini(levels: Tensor) -> Tensor:
    """Gini coefficient over criteria: ``sum_ij |x_i - x_j| / (2 n^2 mean)``; 0 = even, also where all are 0.

    >>> gini(torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """
    seen = _seen(levels).sort().values
    n, total = len(seen), seen.sum()
    if n == 0:
        return levels.new_tensor(torch.nan)
    # The double sum over sorted values, in one pass.
    rank = torch.arange(1, n + 1, dtype=seen.dtype, device=seen.device)
    return ((2 * rank - n - 1) * seen).sum() / n / total.masked_fill(total <= 0, 1)


def spread_over_criteria(levels: Tensor) -> Tensor:
    """Population standard deviation over criteria.

    >>> spread_over_criteria(torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """
    seen = _seen(levels)
    return seen.std(correction=0) if len(seen) else levels.new_tensor(torch.nan)


def bottom_quartile_mean(levels: Tensor) -> Tensor:
    """Mean of the lowest quarter of the criteria, rounded up: of ``ceil(n / 4)``.

    >>> bottom_quartile_mean(torch.tensor([0.5, 0.125, 0.25, 1.0, 1.0]))
    tensor(0.1875)
    """
    seen = _seen(levels).sort().values
    return seen[: math.ceil(len(seen) / 4)].mean()


def strict_completion(scores: Tensor, mask: Tensor | None = None, threshold: float = 1.0) -> tuple[Tensor, Tensor]:
    """Which rollouts meet every criterion that counts.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        threshold: a criterion is met by a score of at least this.

    Returns:
        ``(complete, valid)``, ``[P, G]`` bool; a rollout on which nothing was judged is neither. The share is the
        ratio of their sums.

    >>> strict_completion(torch.tensor([[[1.0, 1.0], [1.0, 0.5]]]))
    (tensor([[ True, False]]), tensor([[True, True]]))
    """
    expect_scores(scores, mask)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    valid = mask.any(-1)
    return ((scores >= threshold) | ~mask).all(-1) & valid, valid


def effective_number(weights: Tensor) -> Tensor:
    """Effective number of criteria of each prompt, ``1 / sum_c w_c^2`` for weights that sum to 1; 0 where all are 0.

    Args:
        weights: ``[P, C]`` >= 0, rows summing to 1.

    >>> effective_number(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]))
    tensor([2., 1., 0.])
    """
    squares = weights.square().sum(-1)
    return torch.where(squares > 0, 1 / squares, 0.0)


def saturated_mass(weights: Tensor, saturation: Tensor, threshold: float = 0.9) -> Tensor:
    """Weight that each prompt still spends on satisfied criteria: ``sum of w_c where sigma_c >= threshold``.

    Args:
        weights: ``[P, C]``, rows summing to 1.
        saturation: ``[P, C]`` in [0, 1].
        threshold: from which level on a criterion is satisfied (ours).

    Returns:
        ``[P]`` in [0, 1].

    Raises:
        ValueError: on shapes that do not fit.

    >>> saturated_mass(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.95, 0.5]]))
    tensor([0.2500])
    """
    expect_shape("saturation", saturation, "P, C", tuple(weights.shape))
    return kept(weights, saturation >= threshold).sum(-1)


@dataclass(frozen=True)
class CriterionSums:
    """Sums by criterion name, each ``[n]``; they add up over batches and processes, the shares and means are read off at the end.

    Args:
        slots: rollouts that bore the criterion.
        judged: of these, scores that count.
        failed: of these, failures of the judge; the rest was not applicable.
        score: sum of the scores that count.
        groups: groups in which it was judged at least once.
        all_pass: of these, groups in which every judged rollout meets it.
        all_fail: of these, groups in which none does; the rest is contrastive.
        spread_groups: groups in which it was judged at least twice.
        spread: sum of their within-group standard deviations (unbiased).
    """

    slots: Tensor
    judged: Tensor
    failed: Tensor
    score: Tensor
    groups: Tensor
    all_pass: Tensor
    all_fail: Tensor
    spread_groups: Tensor
    spread: Tensor

    def __add__(self, other: CriterionSums) -> CriterionSums:
        return CriterionSums(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def shares(self) -> dict[str, Tensor]:
        """Return means and shares by criterion, each ``[n]``, NaN where there is nothing to divide by."""
        return {
            "score": self.score / self.judged,
            "group_std": self.spread / self.spread_groups,
            "all_pass": self.all_pass / self.groups,
            "all_fail": self.all_fail / self.groups,
            "contrastive": (self.groups - self.all_pass - self.all_fail) / self.groups,
            "not_applicable": (self.slots - self.judged - self.failed) / self.slots,
            "failed": self.failed / self.slots,
        }


@torch.no_grad()
def criterion_sums(
    scores: Tensor,
    mask: Tensor | None = None,
    failed: Tensor | None = None,
    index: Tensor | None = None,
    n: int | None = None,
    threshold: float = 1.0,
) -> CriterionSums:
    """Add up a batch by criterion.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        failed: ``[P, G, C]`` bool, True = the judge failed here; None = nowhere.
        index: ``[P, C]`` int64, which of ``n`` names a criterion bears, -1 = padding; None = one name a column, no padding.
        n: number of names; needed with ``index``.
        threshold: a criterion is met by a score of at least this.

    Returns:
        The sums, float64 (float32 on MPS).

    Raises:
        ValueError: on shapes that do not fit, or an ``index`` without ``n``.
        TypeError: if ``mask`` or ``failed`` is not boolean.

    >>> sums = criterion_sums(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    >>> sums.shares()["score"], sums.shares()["contrastive"]
    (tensor([1.0000, 0.5000], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64))
    """
    expect_scores(scores, mask)
    expect_bool("failed", failed, "P, G, C", tuple(scores.shape))
    columns, names = name_columns(scores, index, n)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    failed = torch.zeros_like(mask) if failed is None else failed
    judged = mask.sum(1)
    met = (mask & (scores >= threshold)).sum(1)
    _, std = group_spread(scores, mask)
    sums = {
        "slots": torch.full_like(judged, scores.shape[1]),
        "judged": judged,
        "failed": (failed & ~mask).sum(1),
        "score": kept(scores.to(std.dtype), mask).sum(1),
        "groups": judged > 0,
        "all_pass": (judged > 0) & (met == judged),
        "all_fail": (judged > 0) & (met == 0),
        "spread_groups": judged > 1,
        "spread": std,
    }
    return CriterionSums(**{name: scatter_sums(values, columns, names) for name, values in sums.items()})
