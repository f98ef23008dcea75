"""Rewards that a single criterion can bring down."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape, working_dtype
from lightning_focal.functional.rewarding import weighted_reward

__all__ = ["gated_reward", "worst_of_reward"]


def worst_of_reward(scores: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Score of the criterion a rollout meets least.

    ``R_i = min_c s_ic`` over the criteria that count and have a weight above 0 (common practice).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.

    Returns:
        ``[P, G]`` in [0, 1], at least float32; 0 where nothing was counted.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> worst_of_reward(torch.tensor([[[1.0, 0.25], [0.5, 0.75]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[0.2500, 0.5000]])
    """
    expect_shape("scores", scores, "P, G, C")
    p, g, c = scores.shape
    expect_shape("weights", weights, "P, C", (p, c))
    counts = (weights > 0)[:, None].expand(p, g, c)
    if mask is not None:
        expect_bool("mask", mask, "P, G, C", (p, g, c))
        counts = counts & mask
    scores = scores.to(working_dtype(scores, weights))
    if c == 0:  # no least of nothing
        return scores.new_zeros(p, g)
    worst = torch.where(counts, scores, torch.full_like(scores, torch.inf)).amin(-1)
    return torch.where(counts.any(-1), worst, torch.zeros_like(worst))


def gated_reward(scores: Tensor, weights: Tensor, mask: Tensor | None = None, *, required: Tensor) -> Tensor:
    """Weighted reward times the scores of the required criteria.

    ``R_i = (sum_c w_c m_ic s_ic / sum_c w_c m_ic) * prod_{c required, m_ic} s_ic`` (common practice). A required criterion that
    does not count for a rollout does not close its gate.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        required: ``[P, C]`` bool, True = the reward is nothing without it.

    Returns:
        ``[P, G]`` in [0, 1], at least float32; 0 where no weight was counted.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` or ``required`` is not boolean.

    >>> scores = torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])
    >>> gated_reward(scores, torch.tensor([[0.5, 0.5]]), required=torch.tensor([[True, False]]))
    tensor([[0.7500, 0.0000]])
    """
    reward = weighted_reward(scores, weights, mask)
    expect_bool("required", required, "P, C", (scores.shape[0], scores.shape[2]))
    gates = required[:, None].expand(scores.shape)
    if mask is not None:
        gates = gates & mask
    scores = scores.to(reward.dtype)
    return reward * torch.where(gates, scores, torch.ones_like(scores)).prod(-1)
