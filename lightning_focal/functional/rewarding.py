"""From criterion scores and weights to one reward a rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_scores, kept, working_dtype

__all__ = ["gated_reward", "soft_overlong_punishment", "weighted_reward", "worst_of_reward"]


def reward_sums(scores: Tensor, weights: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``sum_c w m s`` and ``sum_c w m``, both ``[P, G]``, for scores that are 0 where they do not count."""
    row = weights[:, None]
    # A row vector times the transpose: the other order takes six times as long in MKL's batched kernels.
    above = torch.bmm(row, scores.transpose(1, 2))[:, 0]
    if mask is None:
        return above, weights.sum(-1, keepdim=True).expand_as(above)
    return above, torch.bmm(row, mask.to(weights.dtype).transpose(1, 2))[:, 0]


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """``above / below``, and 0 where nothing was counted: there both are 0."""
    return above / below.clamp_min(torch.finfo(below.dtype).tiny)


def weighted_reward(scores: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Weighted mean of the criterion scores that count.

    ``R_i = sum_c w_c m_ic s_ic / sum_c w_c m_ic`` (arXiv:2605.26579: static aggregation with base weights, the calibrated reward
    with focal weights).

    Args:
        scores: ``[P, G, C]`` in [0, 1]; entries that do not count may hold anything.
        weights: ``[P, C]`` >= 0; the scale of a row does not matter.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.

    Returns:
        ``[P, G]`` in [0, 1], at least float32; 0 where no weight was counted.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> scores = torch.tensor([[[1.0, 0.0], [1.0, 0.5]]])
    >>> weighted_reward(scores, torch.tensor([[0.75, 0.25]]))
    tensor([[0.7500, 0.8750]])
    >>> weighted_reward(scores, torch.tensor([[0.75, 0.25]]), torch.tensor([[[True, False], [False, False]]]))
    tensor([[1., 0.]])
    """
    expect_scores(scores, mask, weights)
    dtype = working_dtype(scores, weights)
    return ratio(*reward_sums(kept(scores.to(dtype), mask), weights.to(dtype), mask))


def worst_of_reward(scores: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Score of the criterion a rollout meets least: ``R_i = min_c s_ic`` over those that count and weigh (common practice).

    Arguments and errors are those of :func:`weighted_reward`.

    Returns:
        ``[P, G]`` in [0, 1], at least float32; 0 where nothing was counted.

    >>> worst_of_reward(torch.tensor([[[1.0, 0.25], [0.5, 0.75]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[0.2500, 0.5000]])
    """
    expect_scores(scores, mask, weights)
    scores = scores.to(working_dtype(scores, weights))
    if scores.shape[2] == 0:  # no least of nothing
        return scores.new_zeros(scores.shape[:2])
    counts = (weights > 0)[:, None].expand_as(scores)
    counts = counts if mask is None else counts & mask
    worst = scores.masked_fill(~counts, torch.inf).amin(-1)
    return torch.where(counts.any(-1), worst, 0.0)


def gated_reward(scores: Tensor, weights: Tensor, mask: Tensor | None = None, *, required: Tensor) -> Tensor:
    """Weighted reward times the scores of the required criteria.

    ``R_i = (sum_c w_c m_ic s_ic / sum_c w_c m_ic) * prod_{c required, m_ic} s_ic`` (common practice). A required criterion that
    does not count for a rollout does not close its gate. Other arguments and errors are those of :func:`weighted_reward`.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        required: ``[P, C]`` bool, True = the reward is nothing without it.

    Returns:
        ``[P, G]`` in [0, 1], at least float32; 0 where no weight was counted.

    >>> scores = torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])
    >>> gated_reward(scores, torch.tensor([[0.5, 0.5]]), required=torch.tensor([[True, False]]))
    tensor([[0.7500, 0.0000]])
    """
    reward = weighted_reward(scores, weights, mask)
    expect_bool("required", required, "P, C", tuple(weights.shape))
    gates = required[:, None] if mask is None else required[:, None] & mask
    return reward * scores.to(reward.dtype).masked_fill(~gates, 1).prod(-1)


def soft_overlong_punishment(lengths: Tensor, max_completion_len: int, soft_punish_cache: int) -> Tensor:
    """What is added to the reward of a response that is too long (DAPO, arXiv:2503.14476 eq. 13; the names are TRL's).

    0 up to ``max_completion_len - soft_punish_cache`` tokens, from there falling in a straight line to -1 at ``max_completion_len``, -1
    beyond.

    Args:
        lengths: any shape, tokens of each response.
        max_completion_len: tokens, ``L_max``.
        soft_punish_cache: tokens, ``L_cache``, in [1, ``max_completion_len``].

    Returns:
        Float32 in [-1, 0], of the shape of ``lengths``.

    Raises:
        ValueError: for a cache out of range.

    >>> soft_overlong_punishment(torch.tensor([50, 80, 90, 120]), 100, 20) + 0.0
    tensor([ 0.0000,  0.0000, -0.5000, -1.0000])
    """
    if not 1 <= soft_punish_cache <= max_completion_len:
        raise ValueError(
            f"`soft_punish_cache` must be in [1, `max_completion_len` = {max_completion_len}], got {soft_punish_cache}"
        )
    return ((max_completion_len - soft_punish_cache - lengths).to(torch.float32) / soft_punish_cache).clamp(-1, 0)
