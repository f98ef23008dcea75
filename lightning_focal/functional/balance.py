"""How evenly the criteria are met."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape

__all__ = [
    "bottom_quartile_mean",
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
    position = torch.where(levels.isnan(), torch.full_like(levels, torch.inf), levels).argmin()
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
    if not len(seen):
        return levels.new_tensor(torch.nan)
    n, total = len(seen), seen.sum()
    # The double sum over sorted values, in one pass.
    rank = torch.arange(1, n + 1, dtype=seen.dtype, device=seen.device)
    apart = ((2 * rank - n - 1) * seen).sum() / n
    return apart / total if bool(total > 0) else torch.zeros_like(total)


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
    expect_shape("scores", scores, "P, G, C")
    met = scores >= threshold
    if mask is None:
        mask = torch.ones_like(met)
    expect_bool("mask", mask, "P, G, C", (scores.shape[0], scores.shape[1], scores.shape[2]))
    valid = mask.any(-1)
    return (met | ~mask).all(-1) & valid, valid


def effective_number(weights: Tensor) -> Tensor:
    """Effective number of criteria of each prompt, ``1 / sum_c w_c^2`` for weights that sum to 1; 0 where all are 0.

    Args:
        weights: ``[P, C]`` >= 0, rows summing to 1.

    >>> effective_number(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]))
    tensor([2., 1., 0.])
    """
    squares = weights.square().sum(-1)
    return torch.where(squares > 0, 1 / torch.where(squares > 0, squares, torch.ones_like(squares)), torch.zeros_like(squares))


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
    return torch.where(saturation >= threshold, weights, torch.zeros_like(weights)).sum(-1)
