"""Weights from how much the scores of a criterion spread: MO-GRPO, DIVA, POW3R; and from its batch mean: SA-MRPO."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_scores, expect_shape, kept, normalise, working_dtype
from lightning_focal.functional.groups import group_spread
from lightning_focal.functional.weighting import criterion_moments, name_columns

__all__ = ["diva_weights", "mo_grpo_weights", "pow3r_factors", "pow3r_weights", "sa_mrpo_weights"]


@torch.no_grad()
def mo_grpo_weights(scores: Tensor, weights: Tensor, mask: Tensor | None = None, unbiased: bool = True) -> Tensor:
    """Weights that make every criterion spread alike: ``w_c`` in proportion to ``b_c / std_c``.

    The standard deviation is that of the group, on raw scores (MO-GRPO, arXiv:2509.22047). A criterion that does not vary in the
    group tells its rollouts nothing and has weight 0; where none varies the base weights stay (ours).
    Errors are those of :func:`weighted_reward`.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        unbiased: divide variances by ``n - 1``; False: by ``n``.

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0 where nothing was judged.

    >>> mo_grpo_weights(torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]), torch.tensor([[0.5, 0.5]]))  # std in the ratio 2 to 1
    tensor([[0.3333, 0.6667]])
    """
    base = _judged(scores, weights, mask)
    _, std = group_spread(scores, mask, unbiased)
    raw = torch.where(std > 0, base / std, torch.zeros_like(base))
    return normalise(torch.where(raw.sum(-1, keepdim=True) > 0, raw, base))


@torch.no_grad()
def diva_weights(scores: Tensor, weights: Tensor, mask: Tensor | None = None, epsilon: float = 0.01) -> Tensor:
    """Weights in proportion to the variance in the group: ``w_c`` in proportion to ``V_c + epsilon``, points ignored (DIVA, ACL 2026).

    Arguments and errors are those of :func:`mo_grpo_weights`; of ``weights`` it matters alone which are above 0. The variance is that
    of the population (divided by ``n``).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0; a criterion of weight 0 takes no part.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        epsilon: > 0, what a criterion without variance keeps, in units of score squared (its size: ours).

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0 where nothing was judged.

    >>> diva_weights(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), torch.tensor([[0.5, 0.5]]), epsilon=0.05)
    tensor([[0.8571, 0.1429]])
    """
    if not epsilon > 0:
        raise ValueError(f"`epsilon` must be > 0, got {epsilon}")
    base = _judged(scores, weights, mask)
    _, std = group_spread(scores, mask, unbiased=False)
    return normalise(torch.where(base > 0, std.square() + epsilon, torch.zeros_like(base)))


@torch.no_grad()
def pow3r_factors(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    categories: Tensor | None = None,
    strength: float = 0.5,
    clip: tuple[float, float] = (0.2, 3.0),
    epsilon: float = 1e-3,
) -> Tensor:
    """How much a criterion's weight is to be multiplied by, from one group: POW3R before its moving average.

    ``clip((1 - strength) + strength g_c / mean_k g_k)`` with ``g = sqrt(V + epsilon)``, ``V`` the population variance in the group and
    the mean over the criteria of ``c``'s category (arXiv:2605.20164; the sizes of the three numbers: ours).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0; a criterion of weight 0 takes no part.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        categories: ``[P, C]`` int64 in [0, C), which category a criterion belongs to; None = all to one.
        strength: in [0, 1]; 0 = static.
        clip: lowest and highest factor, ``0 < lowest <= highest``.
        epsilon: > 0, added to the variance, in units of score squared.

    Returns:
        ``[P, C]``, at least float32, without gradient; 1 where a criterion takes no part.

    Raises:
        ValueError: on shapes that do not fit or a number out of range.
        TypeError: if ``mask`` is not boolean.

    >>> pow3r_factors(torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[1.4406, 0.5594]])
    """
    if not (0 <= strength <= 1 and 0 < clip[0] <= clip[1] and epsilon > 0):
        raise ValueError(
            "`strength` must be in [0, 1], `clip` (lowest, highest) with 0 < lowest <= highest, `epsilon` > 0, "
            f"got {strength}, {tuple(clip)}, {epsilon}"
        )
    takes_part = _judged(scores, weights, mask) > 0
    _, std = group_spread(scores, mask, unbiased=False)
    contrast = torch.where(takes_part, (std.square() + epsilon).sqrt(), torch.zeros_like(std))
    mean = _in_category(contrast, categories) / _in_category(takes_part.to(std.dtype), categories).clamp_min(1)
    factors = (1 - strength + strength * contrast / mean).clamp(*clip)
    return torch.where(takes_part, factors, torch.ones_like(factors))


@torch.no_grad()
def pow3r_weights(weights: Tensor, factors: Tensor, categories: Tensor | None = None) -> Tensor:
    """Base weights times factors, each category with the total that it had (arXiv:2605.20164 keeps the balance of categories).

    Args:
        weights: ``[P, C]`` base weights >= 0, 0 where a criterion does not apply.
        factors: ``[P, C]`` > 0, :func:`pow3r_factors` or their average.
        categories: ``[P, C]`` int64 in [0, C); None = all one.

    Returns:
        ``[P, C]``, at least float32, without gradient; rows have the sum of those of ``weights``.

    Raises:
        ValueError: on shapes that do not fit.

    >>> pow3r_weights(torch.tensor([[0.25, 0.25, 0.5]]), torch.tensor([[3.0, 1.0, 9.0]]), torch.tensor([[0, 0, 1]]))
    tensor([[0.3750, 0.1250, 0.5000]])
    """
    expect_shape("weights", weights, "P, C")
    expect_shape("factors", factors, "P, C", tuple(weights.shape))
    base = weights.to(working_dtype(weights, factors))
    moved = base * factors
    total = _in_category(moved, categories)
    return moved * (_in_category(base, categories) / total.masked_fill(total <= 0, 1))


@torch.no_grad()
def sa_mrpo_weights(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    gamma: float = 0.5,
    index: Tensor | None = None,
    n: int | None = None,
    moments: Tensor | None = None,
) -> Tensor:
    """Base weights times headroom, ``b_c (1 - mean_c)^gamma`` with the mean over the batch, **not** made to sum to 1 (SA-MRPO, 2026).

    For :func:`gdpo_advantage`, whose last step takes the scale of the batch off but not the difference between prompts.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        gamma: >= 0; 0 = GDPO.
        index: see :func:`criterion_moments`.
        n: see :func:`criterion_moments`.
        moments: :func:`criterion_moments` summed over all processes; None = of this batch.

    Returns:
        ``[P, C]``, at least float32, without gradient; 0 where nothing was judged.

    Raises:
        ValueError: on shapes that do not fit, a negative ``gamma``, or an ``index`` without ``n``.
        TypeError: if ``mask`` is not boolean.

    >>> sa_mrpo_weights(torch.tensor([[[1.0, 0.0], [0.5, 0.0]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[0.2500, 0.5000]])
    """
    if not gamma >= 0:
        raise ValueError(f"`gamma` must be >= 0, got {gamma}")
    base = _judged(scores, weights, mask)
    columns, n = name_columns(scores, index, n)
    count, total, _ = criterion_moments(scores, mask, columns, n) if moments is None else moments
    headroom = (1 - (total / count.clamp_min(1)).clamp(0, 1)) ** gamma
    by_name = torch.cat([headroom, headroom.new_zeros(1)]).to(base.dtype)  # -1 reads the last, a 0
    return base * by_name[columns]


def _judged(scores: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """Weights ``[P, C]`` in the working precision, 0 where no rollout was judged."""
    expect_scores(scores, mask, weights)
    base = weights.to(working_dtype(scores, weights))
    return base if mask is None else kept(base, mask.any(1))


def _in_category(values: Tensor, categories: Tensor | None) -> Tensor:
    """``[P, C]``: the sum over the criteria of each criterion's category."""
    if categories is None:
        return values.sum(-1, keepdim=True).expand_as(values)
    return torch.zeros_like(values).scatter_add_(1, categories, values).gather(1, categories)
