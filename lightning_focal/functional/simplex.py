"""Euclidean projection onto the simplex with a box around every entry."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["project_bounded_simplex"]


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
    dtype = torch.promote_types(values.dtype, torch.float32)
    wide = dtype if values.device.type == "mps" else torch.float64  # MPS knows no float64
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    zero = torch.zeros((), dtype=wide, device=values.device)
    v, low, high = (torch.where(mask, x.to(wide), zero) for x in (values, lower, upper))
    slack = 8 * torch.finfo(dtype).eps
    _expect_feasible(low, high, mask, slack)

    kinks = torch.cat([v - high, v - low], dim=-1)
    kinks, order = kinks.sort(dim=-1)
    # Passing `v - upper` an entry starts to fall with the shift, passing `v - lower` it stops.
    steps = torch.where(order < v.shape[-1], 1.0, -1.0).to(wide)
    falling = steps.cumsum(-1)[..., :-1]
    drops = torch.cat([torch.zeros_like(kinks[..., :1]), (falling * kinks.diff(dim=-1)).cumsum(-1)], dim=-1)
    sums = high.sum(-1, keepdim=True) - drops
    # The first kink at which the sum is not above 1; the solution lies on the piece that ends there.
    end = (sums > 1).sum(-1, keepdim=True).clamp_max(kinks.shape[-1] - 1)
    slope = falling.gather(-1, (end - 1).clamp_min(0))
    inside = (end > 0) & (slope > 0)
    back = torch.where(inside, (1 - sums.gather(-1, end)) / slope.clamp_min(1), zero)
    projected = torch.minimum(torch.maximum(v - (kinks.gather(-1, end) - back), low), high)

    fits = ((v >= low) & (v <= high)).all(-1, keepdim=True) & ((v.sum(-1, keepdim=True) - 1).abs() <= slack)
    return torch.where(fits, v, projected).to(dtype)


def _expect_feasible(low: Tensor, high: Tensor, mask: Tensor, slack: float) -> None:
    wrong = (low.sum(-1) > 1 + slack) | (high.sum(-1) < 1 - slack) | (low > high).any(-1)
    wrong &= mask.any(-1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"the bounds cannot hold for C = {int(mask[row].sum())} criteria: the lower ones sum to {float(low[row].sum()):.6g} "
            f"(must be <= 1), the upper ones to {float(high[row].sum()):.6g} (must be >= 1)"
        )
