"""GDPO: every criterion normalised by itself before they are added up."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_shape
from lightning_focal.functional.groups import batch_moments, batch_std
from lightning_focal.functional.zscores import group_zscores

__all__ = ["gdpo_advantage"]


def gdpo_advantage(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    epsilon: float = 1e-6,
    batch_scale: bool = True,
    moments: Tensor | None = None,
) -> Tensor:
    """Weighted sum of group z-scores, then z-scored over the batch.

    ``A_i = sum_c b_c z_ic``, then ``(A_i - mean A) / (std A + epsilon)`` over all valid rollouts of the batch, those judged on
    something that weighs (NVlabs/GDPO; TRL ``normalize_then_sum``). The z-scores of a group add up to 0, so the batch mean is 0
    and is not computed. A score that does not count adds nothing, as if it were the group's mean.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0, taken as they are; rows sum to 1 (focal weights in their place are "Focal + GDPO").
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        epsilon: added to every standard deviation.
        batch_scale: False leaves out the second step.
        moments: :func:`batch_moments` of the unscaled result (``batch_scale=False``) over valid rollouts, summed over all processes;
            None = of this batch.

    Returns:
        ``[P, G]``, at least float32; exactly 0 where nothing was judged and where all rollouts of a group agree.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> gdpo_advantage(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[ 0.7071, -0.7071]])
    """
    z = group_zscores(scores, mask, epsilon)
    expect_shape("weights", weights, "P, C", (z.shape[0], z.shape[2]))
    advantage = torch.bmm(z, weights.to(z.dtype)[:, :, None])[..., 0]
    if not batch_scale:
        return advantage
    if moments is None:
        weighs = (weights > 0)[:, None].expand_as(z)
        moments = batch_moments(advantage, (weighs if mask is None else weighs & mask).any(-1))
    _, std = batch_std(moments)
    return advantage / (std.to(advantage.dtype) + epsilon)
