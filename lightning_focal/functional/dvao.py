"""DVAO: criteria count as far as they tell the rollouts of a group apart."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_shape
from lightning_focal.functional.zscores import group_spread

__all__ = ["dvao_advantage"]


def dvao_advantage(
    scores: Tensor, weights: Tensor, mask: Tensor | None = None, epsilon: float = 1e-6, unbiased: bool = False
) -> Tensor:
    """Sum of group z-scores, weighted by how much each criterion varies.

    ``v_c = b_c std_c / sum_k b_k std_k``, ``A_i = sum_c v_c z_ic`` with the population standard deviation (arXiv:2605.25604).
    The standard deviation of ``z`` cancels: ``A_i = sum_c b_c (s_ic - mean_c) / sum_k b_k std_k``. With focal weights in place of
    ``b`` it is "Focal + DVAO" (public re-implementation).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        epsilon: a group whose ``sum_k b_k std_k`` is at most this gets 0.
        unbiased: divide variances by ``n - 1`` in place of ``n``.

    Returns:
        ``[P, G]``, at least float32; exactly 0 where nothing was judged, where one rollout is valid, and where all agree.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> dvao_advantage(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[ 1., -1.]])
    """
    deviations, std = group_spread(scores, mask, unbiased)
    expect_shape("weights", weights, "P, C", tuple(std.shape))
    weights = weights.to(std.dtype)
    total = (weights * std).sum(-1, keepdim=True)
    above = torch.bmm(deviations, weights[:, :, None])[..., 0]
    live = ~(total <= epsilon)  # negated, so that a NaN that counts stays visible
    return torch.where(live, above / torch.where(live, total, torch.ones_like(total)), torch.zeros_like(above))
