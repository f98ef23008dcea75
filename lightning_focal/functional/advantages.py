"""Advantage estimators: how much better a rollout is than its group."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_shape, working_dtype
from lightning_focal.functional.choices import expect_choice
from lightning_focal.functional.groups import batch_moments, batch_std, centre, expect_valid

__all__ = ["group_advantage", "rloo_advantage"]


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
    expect_shape("rewards", rewards, "P, G")
    expect_valid(rewards, valid)
    rewards = rewards.to(working_dtype(rewards))
    deviations, count = centre(rewards, valid)
    if scale == "none":
        return deviations
    if scale == "batch":
        _, std = batch_std(batch_moments(rewards, valid) if moments is None else moments)
        return deviations / (std.to(rewards.dtype) + epsilon)
    std = (deviations.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    # With epsilon = 0 a group without spread would divide 0 by 0.
    return deviations / (std + epsilon).clamp_min(torch.finfo(std.dtype).tiny)


def rloo_advantage(rewards: Tensor, valid: Tensor | None = None) -> Tensor:
    """Reward minus the mean of the *other* rollouts of the group (arXiv:2402.14740).

    ``A_i = R_i - sum_{j != i} R_j / (n - 1) = n / (n - 1) (R_i - mean R)`` for ``n`` valid rollouts.

    Args:
        rewards: ``[P, G]``.
        valid: ``[P, G]`` bool, True = takes part; None = all do.

    Returns:
        ``[P, G]``, at least float32; exactly 0 where not valid and for a group of one.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``valid`` is not boolean.

    >>> rloo_advantage(torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    expect_shape("rewards", rewards, "P, G")
    expect_valid(rewards, valid)
    deviations, count = centre(rewards.to(working_dtype(rewards)), valid)
    return deviations * (count / (count - 1).clamp_min(1))
