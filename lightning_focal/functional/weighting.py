"""The weight of each criterion: base weights, focal weights and their bounds, SAW weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import (
    expect_bool,
    expect_scores,
    expect_shape,
    kept,
    normalise,
    wide_dtype,
    working_dtype,
)
from lightning_focal.functional.groups import batch_std
from lightning_focal.functional.saturation import scatter_sums

__all__ = ["base_weights", "criterion_moments", "focal_weights", "project_bounded_simplex", "saw_weights"]


@torch.no_grad()
def base_weights(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Base weights over the criteria that apply, each row summing to 1.

    ``b_c = m_c |points_c| / sum_k m_k |points_k|`` (public re-implementation: "prior"); equal weights give "uniform".
    Errors are those of :func:`weighted_reward`.

    Args:
        weights: ``[P, C]`` >= 0, any scale.
        mask: ``[P, C]`` bool, True = the criterion applies; None = all do.

    Returns:
        ``[P, C]``, at least float32; rows with nothing that applies are 0.

    >>> base_weights(torch.tensor([[3.0, 1.0, 4.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    expect_shape("weights", weights, "P, C")
    expect_bool("mask", mask, "P, C", tuple(weights.shape))
    return normalise(kept(weights.to(working_dtype(weights)), mask))


@torch.no_grad()
def focal_weights(
    saturation: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    gamma: float = 3.0,
    epsilon: float = 0.05,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
    mix: float = 1.0,
) -> Tensor:
    """Move weight from satisfied criteria to those that still have something to gain.

    ``d_c = 1 - sigma_c + epsilon``, ``w_c = b_c d_c^gamma / sum_k b_k d_k^gamma`` (arXiv:2605.26579 states the purpose; formula
    and defaults: public re-implementation, rescaled from scores 0..10). With ``gamma = 0``, or where all levels of a row are
    equal, ``w`` is ``b`` bit by bit. ``mix`` then gives ``mix w + (1 - mix) b`` (public re-implementation: 0.7), and ``bounds`` the
    nearest point to that with ``lo <= w_c <= hi`` (:func:`project_bounded_simplex`).

    Args:
        saturation: ``[P, C]`` in [0, 1]; entries that do not apply may hold anything.
        weights: ``[P, C]`` base weights >= 0, any scale.
        mask: ``[P, C]`` bool, True = the criterion applies to the prompt; None = all do.
        gamma: >= 0, how sharply satisfied criteria lose weight; 0 = static.
        epsilon: >= 0, the difficulty that a satisfied criterion keeps, in units of score.
        bounds: ``(lo, hi)`` or None. Tensors, broadcastable to ``[P, C]``, bound the weights as they are. So do numbers, but where
            the prompts differ in how many criteria apply they are multiples of ``b_c`` (ours).
        mix: share of the moved weights beside the base weights, in [0, 1].

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0 where nothing applies.

    Raises:
        ValueError: on shapes that do not fit, a negative ``gamma`` or ``epsilon``, a ``mix`` outside [0, 1], or bounds that no weights
            can satisfy.
        TypeError: if ``mask`` is not boolean.

    >>> focal_weights(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 0.5]]), gamma=1.0, epsilon=0.5)
    tensor([[0.3333, 0.6667]])
    >>> focal_weights(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 0.5]]), bounds=(0.4, 0.6))
    tensor([[0.4000, 0.6000]])
    """
    expect_shape("saturation", saturation, "P, C")
    expect_shape("weights", weights, "P, C", tuple(saturation.shape))
    for name, value in (("gamma", gamma), ("epsilon", epsilon)):
        if not value >= 0:
            raise ValueError(f"`{name}` must be >= 0, got {value}")
    if not 0 <= mix <= 1:
        raise ValueError(f"`mix` must be in [0, 1], got {mix}")
    dtype = working_dtype(saturation, weights)
    base = base_weights(weights.to(dtype), mask)
    if base.shape[1] == 0:
        return base
    difficulty = torch.where(base > 0, 1 - saturation.to(dtype) + epsilon, 0.0)
    # Relative to the hardest criterion: equal levels give a factor of exactly 1, and no power of a small number underflows.
    hardest = difficulty.amax(-1, keepdim=True)
    none = (hardest <= 0).to(dtype)  # all satisfied and no epsilon: equal levels as well
    focal = normalise(base * ((difficulty + none) / (hardest + none)) ** gamma)
    if mix != 1:
        focal = base + mix * (focal - base)
    if bounds is None:
        return focal
    applies = torch.ones_like(focal, dtype=torch.bool) if mask is None else mask
    ragged = bool((applies.sum(-1) != applies[:1].sum(-1)).any())
    low, high = (x if isinstance(x, Tensor) else x * base if ragged else torch.full_like(base, x) for x in bounds)
    return project_bounded_simplex(focal, low, high, applies & (base.sum(-1, keepdim=True) > 0))


def project_bounded_simplex(values: Tensor, lower: Tensor, upper: Tensor, mask: Tensor | None = None) -> Tensor:
    """Nearest point of ``{w : sum w = 1, lower <= w <= upper}`` to each row of ``values``.

    ``argmin_w ||w - v||^2`` is ``clip(v - t, lower, upper)`` with the one shift ``t`` that makes the row sum to 1. The sum is
    piecewise linear in ``t`` with kinks at ``v - lower`` and ``v - upper``; they are sorted and the right piece is solved, so
    the result is exact up to rounding, without iteration (ours).

    Args:
        values: ``[P, C]`` points to project.
        lower: broadcastable to ``[P, C]``, >= 0.
        upper: broadcastable to ``[P, C]``, >= lower.
        mask: ``[P, C]`` bool, True = the entry takes part, the others become 0; None = all do.

    Returns:
        ``[P, C]``, at least float32; rows without an entry that takes part are 0, rows that already satisfy everything come back
        unchanged.

    Raises:
        ValueError: if no point satisfies the bounds of some row; names the number of entries, ``C``, of the first such row.

    >>> project_bounded_simplex(torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor(0.0), torch.tensor(0.5))
    tensor([[0.5000, 0.2500, 0.2500]])
    """
    dtype, wide = working_dtype(values), wide_dtype(values)
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    v, low, high = (torch.where(mask, x.to(wide), 0.0) for x in (values, lower, upper))
    slack = 8 * torch.finfo(dtype).eps
    wrong = (low.sum(-1) > 1 + slack) | (high.sum(-1) < 1 - slack) | (low > high).any(-1)
    if bool((wrong & mask.any(-1)).any()):
        row = int((wrong & mask.any(-1)).nonzero()[0])
        raise ValueError(
            f"the bounds cannot hold for C = {int(mask[row].sum())} criteria: the lower ones sum to {float(low[row].sum()):.6g} "
            f"(must be <= 1), the upper ones to {float(high[row].sum()):.6g} (must be >= 1)"
        )
    kinks, order = torch.cat([v - high, v - low], dim=-1).sort(dim=-1)
    # Passing `v - upper` an entry starts to fall with the shift, passing `v - lower` it stops.
    falling = torch.where(order < v.shape[-1], 1.0, -1.0).to(wide).cumsum(-1)[..., :-1]
    drops = torch.nn.functional.pad((falling * kinks.diff(dim=-1)).cumsum(-1), (1, 0))
    sums = high.sum(-1, keepdim=True) - drops
    # The first kink at which the sum is not above 1; the solution lies on the piece that ends there.
    end = (sums > 1).sum(-1, keepdim=True).clamp_max(kinks.shape[-1] - 1)
    slope = falling.gather(-1, (end - 1).clamp_min(0))
    back = torch.where((end > 0) & (slope > 0), (1 - sums.gather(-1, end)) / slope.clamp_min(1), 0.0)
    projected = torch.minimum(torch.maximum(v - (kinks.gather(-1, end) - back), low), high)
    fits = ((v >= low) & (v <= high)).all(-1, keepdim=True) & ((v.sum(-1, keepdim=True) - 1).abs() <= slack)
    return torch.where(fits, v, projected).to(dtype)


@torch.no_grad()
def criterion_moments(scores: Tensor, mask: Tensor | None = None, index: Tensor | None = None, n: int | None = None) -> Tensor:
    """Count, sum and sum of squares of the scores of each criterion over the batch; they add up over processes (ours).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        index: ``[P, C]`` int64, which of ``n`` names a criterion bears, -1 = none; None = one name a column.
        n: number of names; needed with ``index``.

    Returns:
        ``[3, n]`` float64 (float32 on MPS).

    Raises:
        ValueError: on shapes that do not fit, or an ``index`` without ``n``.
        TypeError: if ``mask`` is not boolean.

    >>> criterion_moments(torch.tensor([[[1.0], [0.5]]]))
    tensor([[2.0000],
            [1.5000],
            [1.2500]], dtype=torch.float64)
    """
    expect_scores(scores, mask)
    index, n = name_columns(scores, index, n)
    values = kept(scores, mask).to(wide_dtype(scores))
    number = torch.ones_like(scores) if mask is None else mask.to(scores.dtype)
    total = values.sum(1)
    squares = values.square_() if values.dtype != scores.dtype else values.square()
    return torch.stack([scatter_sums(x, index, n) for x in (number.sum(1), total, squares.sum(1))])


def name_columns(scores: Tensor, index: Tensor | None, n: int | None) -> tuple[Tensor, int]:
    """Return ``index [P, C]`` and the number of names ``n``; without an index each column is a name of its own."""
    if index is None:
        index = torch.arange(scores.shape[2], device=scores.device).expand(scores.shape[0], -1)
        return index, scores.shape[2] if n is None else n
    if n is None:
        raise ValueError("`n`, the number of names, must be given with `index`, got None")
    return index, n


@torch.no_grad()
def saw_weights(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    index: Tensor | None = None,
    n: int | None = None,
    moments: Tensor | None = None,
    unbiased: bool = False,
) -> Tensor:
    """Weights in proportion to the coefficient of variation of each criterion.

    ``v_c = b_c CV_c / sum_k b_k CV_k``, ``CV = std / mean`` over the batch (arXiv:2606.07705). For "SAW on rewards" give them to
    :func:`weighted_reward`, for "SAW on advantages" to :func:`gdpo_advantage`. A criterion that never varies has weight 0, also
    one whose mean is 0; where none of a prompt varies the base weights stay (ours).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        index: see :func:`criterion_moments`.
        n: see :func:`criterion_moments`.
        moments: :func:`criterion_moments` summed over all processes; None = of this batch.
        unbiased: divide variances by ``n - 1`` in place of ``n``.

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0 where nothing was judged.

    Raises:
        ValueError: on shapes that do not fit, or an ``index`` without ``n``.
        TypeError: if ``mask`` is not boolean.

    >>> saw_weights(torch.tensor([[[1.0, 1.0], [0.0, 0.5]]]), torch.tensor([[0.5, 0.5]]))  # CV 1 and 1/3
    tensor([[0.7500, 0.2500]])
    """
    expect_scores(scores, mask, weights)
    columns, n = name_columns(scores, index, n)
    mean, std = batch_std(criterion_moments(scores, mask, columns, n) if moments is None else moments, unbiased)
    variation = torch.where(mean > 0, std / mean, 0.0)
    base = weights.to(working_dtype(scores, weights)).masked_fill(columns < 0, 0)
    base = base if mask is None else kept(base, mask.any(1))
    shifted = base * torch.cat([variation, variation.new_zeros(1)]).to(base.dtype)[columns]  # -1 reads the last, a 0
    return normalise(torch.where(shifted.sum(-1, keepdim=True) > 0, shifted, base))
