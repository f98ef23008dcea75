"""RVPO: a soft minimum over criteria in place of their mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_shape
from lightning_focal.functional.zscores import group_zscores

__all__ = ["softmin_advantage"]


def softmin_advantage(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    k: float = 1.0,
    epsilon: float = 1e-6,
    weighted: bool = False,
) -> Tensor:
    """Soft minimum of the group z-scores of a rollout.

    ``A_i = -(1/k) ln( mean_c exp(-k z_ic) )`` over the criteria judged on rollout ``i`` (RVPO, arXiv:2605.05750): ``k`` -> 0 is
    their mean, ``k`` -> infinity their minimum. Not centred: a rollout with uneven scores lies below its mean.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0; a criterion of weight 0 takes no part.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        k: >= 0, per unit of z-score; 0 and infinity are the limits.
        epsilon: added to the standard deviations.
        weighted: mean over criteria by weight in place of the paper's plain one (ours).

    Returns:
        ``[P, G]``, at least float32; exactly 0 where nothing was judged and where all rollouts of a group agree.

    Raises:
        ValueError: on shapes that do not fit or a negative ``k``.
        TypeError: if ``mask`` is not boolean.

    >>> scores = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    >>> softmin_advantage(scores, torch.tensor([[0.5, 0.5]]), k=float("inf"))
    tensor([[ 0.0000, -0.7071]])
    >>> softmin_advantage(scores, torch.tensor([[0.5, 0.5]]), k=1.0)
    tensor([[ 0.2923, -0.4148]])
    """
    if not k >= 0:
        raise ValueError(f"`k` must be >= 0, got {k}")
    z = group_zscores(scores, mask, epsilon)
    expect_shape("weights", weights, "P, C", (z.shape[0], z.shape[2]))
    weights = weights.to(z.dtype)[:, None].expand_as(z)
    share = weights if weighted else (weights > 0).to(z.dtype)
    if mask is not None:
        share = torch.where(mask, share, torch.zeros_like(share))
    total = share.sum(-1, keepdim=True)
    share = share / torch.where(total > 0, total, torch.ones_like(total))
    if k == 0 or z.shape[2] == 0:
        return (share * z).sum(-1)
    least = torch.where(share > 0, z, torch.full_like(z, torch.inf)).amin(-1, keepdim=True)
    least = torch.where(total > 0, least, torch.zeros_like(least))
    if math.isinf(k):
        return least[..., 0]
    # Around the minimum nothing overflows, and for small k the difference from 1 keeps its digits.
    above = torch.where(share > 0, torch.expm1(-k * (z - least)), torch.zeros_like(z))
    return least[..., 0] - torch.log1p((share * above).sum(-1)) / k
