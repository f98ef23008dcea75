"""Advantage estimators: how much better a rollout is than its group, by its reward or criterion by criterion."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_scores, expect_shape, kept, normalise, working_dtype
from lightning_focal.functional.choices import expect_choice
from lightning_focal.functional.groups import batch_moments, batch_std, centre, group_spread, group_zscores

__all__ = [
    "dvao_advantage",
    "gd2po_advantage",
    "gdpo_advantage",
    "group_advantage",
    "rloo_advantage",
    "softmin_advantage",
]


def group_advantage(
    rewards: Tensor,
    valid: Tensor | None = None,
    scale: Literal["group", "none", "batch"] = "group",
    epsilon: float = 1e-6,
    moments: Tensor | None = None,
) -> Tensor:
    """Rewards centred by the mean of their group and, if wanted, scaled.

    ``group`` (GRPO, arXiv:2402.03300): ``A_i = (R_i - mean R) / (std R + epsilon)`` with the unbiased standard deviation.
    ``none`` (Dr. GRPO, arXiv:2503.20783): ``A_i = R_i - mean R``. ``batch``: centred by group, divided by the unbiased standard
    deviation of all valid rewards of the batch plus ``epsilon``.

    Args:
        rewards: ``[P, G]``.
        valid: ``[P, G]`` bool, True = takes part; None = all do. What stands at the others is not read.
        scale: what to divide by.
        epsilon: added to the standard deviation.
        moments: for ``batch``, :func:`batch_moments` summed over all processes; None = of ``rewards`` alone.

    Returns:
        ``[P, G]``, at least float32; exactly 0 where not valid, for a group of one, and where all rewards of a group are equal.

    Raises:
        ValueError: on shapes that do not fit or an unknown ``scale``.
        TypeError: if ``valid`` is not boolean.

    >>> group_advantage(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), scale="none")
    tensor([[ 0.5000, -0.5000,  0.5000, -0.5000]])
    >>> group_advantage(torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    tensor([[ 0.8660, -0.8660,  0.8660, -0.8660]])
    """
    expect_choice("scale", scale, ("group", "none", "batch"))
    deviations, count = _centred(rewards, valid)
    if scale == "none":
        return deviations
    if scale == "batch":
        _, std = batch_std(batch_moments(rewards, valid) if moments is None else moments)
        return deviations / (std.to(deviations.dtype) + epsilon)
    std = (deviations.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    # With epsilon = 0 a group without spread would divide 0 by 0.
    return deviations / (std + epsilon).clamp_min(torch.finfo(std.dtype).tiny)


def rloo_advantage(rewards: Tensor, valid: Tensor | None = None) -> Tensor:
    """Reward minus the mean of the *other* rollouts of the group (arXiv:2402.14740).

    ``A_i = R_i - sum_{j != i} R_j / (n - 1) = n / (n - 1) (R_i - mean R)`` for ``n`` valid rollouts.
    Arguments and errors are those of :func:`group_advantage`.

    Returns:
        ``[P, G]``, at least float32; exactly 0 where not valid and for a group of one.

    >>> rloo_advantage(torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    deviations, count = _centred(rewards, valid)
    return deviations * (count / (count - 1).clamp_min(1))


def _centred(rewards: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    expect_shape("rewards", rewards, "P, G")
    expect_bool("valid", valid, "P, G", tuple(rewards.shape))
    return centre(rewards.to(working_dtype(rewards)), valid)


def gdpo_advantage(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    epsilon: float = 1e-6,
    batch_scale: bool = True,
    moments: Tensor | None = None,
) -> Tensor:
    """GDPO: weighted sum of the group z-scores of each criterion, then z-scored over the batch.

    ``A_i = sum_c b_c z_ic``, then ``(A_i - mean A) / (std A + epsilon)`` over all valid rollouts of the batch, those judged on
    something that weighs (NVlabs/GDPO; TRL ``normalize_then_sum``). The z-scores of a group add up to 0, so the batch mean is 0
    and is not computed. A score that does not count adds nothing, as if it were the group's mean.
    Errors are those of :func:`weighted_reward`.

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

    >>> gdpo_advantage(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[ 0.7071, -0.7071]])
    """
    expect_scores(scores, mask, weights)
    advantage = _weighted_sum(*_standardised(scores, weights, mask, epsilon))
    return _batch_scaled(advantage, weights, mask, epsilon, moments) if batch_scale else advantage


def _standardised(scores: Tensor, weights: Tensor, mask: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """Deviations ``[P, G, C]`` and weights over standard deviations ``[P, C]``: their products are weighted z-scores."""
    deviations, std = group_spread(scores, mask)
    return deviations, torch.where(std == 0, 0.0, weights.to(std.dtype) / (std + epsilon))


def _weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """``[P, G]``: ``sum_c w_pc x_pgc``."""
    return torch.bmm(weights[:, None], values.transpose(1, 2))[:, 0]


def _weighed(weights: Tensor, mask: Tensor | None, group_size: int) -> Tensor:
    """``[P, G]`` bool, True = judged on something that weighs."""
    if mask is None:
        return (weights > 0).any(-1, keepdim=True).expand(-1, group_size)
    dtype = working_dtype(weights)
    return _weighted_sum(mask.to(dtype), (weights > 0).to(dtype)) > 0  # a count; to look for any takes twice as long


def _batch_scaled(advantage: Tensor, weights: Tensor, mask: Tensor | None, epsilon: float, moments: Tensor | None) -> Tensor:
    if moments is None:
        moments = batch_moments(advantage, _weighed(weights, mask, advantage.shape[1]))
    _, std = batch_std(moments)
    return advantage / (std.to(advantage.dtype) + epsilon)


def gd2po_advantage(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    agreement: float = 0.2,
    epsilon: float = 1e-6,
    moments: Tensor | None = None,
) -> Tensor:
    """GDPO without the rollouts on which the criteria pull apart (GD2PO, arXiv:2606.16771).

    With ``A_ic = b_c z_ic`` a rollout whose ``|sum_c A_ic| / sum_c |A_ic|`` is below ``agreement`` gets 0, and the others of its prompt
    are multiplied by the share of rollouts that were kept. Both come after the scaling by the batch, which all valid rollouts enter
    (ours). Other arguments, errors and what is returned are those of :func:`gdpo_advantage`.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        agreement: in [0, 1]; 0 = GDPO.
        epsilon: added to every standard deviation.
        moments: see :func:`gdpo_advantage`.

    >>> scores = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    >>> gd2po_advantage(scores, torch.tensor([[0.5, 0.5]]))
    tensor([[ 0.0000,  0.0000,  0.6124, -0.6124]])
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"`agreement` must be in [0, 1], got {agreement}")
    expect_scores(scores, mask, weights)
    deviations, scaled = _standardised(scores, weights, mask, epsilon)
    advantage, size = _weighted_sum(deviations, scaled), _weighted_sum(deviations.abs(), scaled)
    valid = _weighed(weights, mask, scores.shape[1])
    # Less by rounding: a rollout that agrees exactly so far stays.
    stays = advantage.abs() >= agreement * (1 - 8 * torch.finfo(size.dtype).eps) * size
    share = (stays & valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
    scaled = _batch_scaled(advantage, weights, mask, epsilon, moments)
    return torch.where(stays, scaled * share, torch.zeros_like(scaled))


def dvao_advantage(
    scores: Tensor, weights: Tensor, mask: Tensor | None = None, epsilon: float = 1e-6, unbiased: bool = False
) -> Tensor:
    """DVAO: sum of group z-scores, weighted by how much each criterion tells the rollouts apart.

    ``v_c = b_c std_c / sum_k b_k std_k``, ``A_i = sum_c v_c z_ic`` with the population standard deviation (arXiv:2605.25604).
    The standard deviation of ``z`` cancels: ``A_i = sum_c b_c (s_ic - mean_c) / sum_k b_k std_k``. With focal weights in place of
    ``b`` it is "Focal + DVAO" (public re-implementation). Other arguments and errors are those of :func:`gdpo_advantage`.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        epsilon: a group whose ``sum_k b_k std_k`` is at most this gets 0.
        unbiased: divide variances by ``n - 1`` in place of ``n``.

    Returns:
        ``[P, G]``, at least float32; exactly 0 where nothing was judged, where one rollout is valid, and where all agree.

    >>> dvao_advantage(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[ 1., -1.]])
    """
    expect_scores(scores, mask, weights)
    deviations, std = group_spread(scores, mask, unbiased)
    weights = weights.to(std.dtype)
    total = (weights * std).sum(-1, keepdim=True)
    idle = total <= epsilon  # a NaN that counts is not idle, so that it stays visible
    return (_weighted_sum(deviations, weights) / total.masked_fill(idle, 1)).masked_fill(idle, 0)


def softmin_advantage(
    scores: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    k: float = 1.0,
    epsilon: float = 1e-6,
    weighted: bool = False,
) -> Tensor:
    """RVPO: soft minimum of the group z-scores of a rollout in place of their mean.

    ``A_i = -(1/k) ln( mean_c exp(-k z_ic) )`` over the criteria judged on rollout ``i`` (arXiv:2605.05750): ``k`` -> 0 is
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
    expect_scores(scores, mask, weights)
    z = group_zscores(scores, mask, epsilon)
    weights = (weights if weighted else weights > 0).to(z.dtype)[:, None].expand_as(z)
    share = normalise(kept(weights, mask))
    if k == 0 or z.shape[2] == 0:
        return (share * z).sum(-1)
    least = z.masked_fill(share <= 0, torch.inf).amin(-1)
    least = least.masked_fill(least == torch.inf, 0)
    if math.isinf(k):
        return least
    # Around the minimum nothing overflows, and for small k the difference from 1 keeps its digits.
    above = torch.expm1(-k * (z - least[..., None])).masked_fill(share <= 0, 0)
    return least - torch.log1p((share * above).sum(-1)) / k
