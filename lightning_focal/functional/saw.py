"""SAW: weights by how much a criterion varies over the batch, relative to its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape, normalise, working_dtype
from lightning_focal.functional.levels import scatter_sums

__all__ = ["criterion_moments", "saw_weights"]


def _columns(index: Tensor | None, p: int, c: int, device: torch.device) -> Tensor:
    return torch.arange(c, device=device).expand(p, c) if index is None else index


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
    expect_shape("scores", scores, "P, G, C")
    p, g, c = scores.shape
    if index is not None and n is None:
        raise ValueError("`n`, the number of names, must be given with `index`, got None")
    dtype = working_dtype(scores)
    if mask is None:
        kept, number = scores.to(dtype), torch.full((p, c), float(g), device=scores.device)
    else:
        expect_bool("mask", mask, "P, G, C", (p, g, c))
        kept, number = torch.where(mask, scores.to(dtype), 0.0), mask.sum(1)
    columns = _columns(index, p, c, scores.device)
    wide = torch.float32 if scores.device.type == "mps" else torch.float64
    kept = kept.to(wide)
    return torch.stack([scatter_sums(x, columns, c if n is None else n) for x in (number, kept.sum(1), kept.square().sum(1))])


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
        index: ``[P, C]`` int64, which of ``n`` names a criterion bears, -1 = none; None = one name a column.
        n: number of names; needed with ``index``.
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
    expect_shape("scores", scores, "P, G, C")
    p, _, c = scores.shape
    expect_shape("weights", weights, "P, C", (p, c))
    count, total, squares = (criterion_moments(scores, mask, index, n) if moments is None else moments).unbind()
    mean = total / count.clamp_min(1)
    around = squares - total * mean
    # What is left of equal scores is rounding.
    around = torch.where(around > 64 * torch.finfo(around.dtype).eps * squares, around, torch.zeros_like(around))
    std = (around / (count - 1 if unbiased else count).clamp_min(1)).sqrt()
    variation = torch.where(mean > 0, std / torch.where(mean > 0, mean, torch.ones_like(mean)), torch.zeros_like(mean))
    columns = _columns(index, p, c, scores.device)
    dtype = working_dtype(scores, weights)
    base = torch.where(columns >= 0, weights.to(dtype), torch.zeros((), dtype=dtype, device=weights.device))
    if mask is not None:
        base = torch.where(mask.any(1), base, torch.zeros_like(base))
    shifted = base * torch.cat([variation, variation.new_zeros(1)]).to(dtype)[columns]  # -1 reads the last, a 0
    return normalise(torch.where(shifted.sum(-1, keepdim=True) > 0, shifted, base))
