"""From criterion scores and weights to one reward a rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import counted, expect_bool, expect_shape, prompt_slices, unreadable, working_dtype

__all__ = ["weighted_reward"]


def contract(scores: Tensor, present: Tensor | None, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sum_c w m s`` and ``sum_c w m``, both ``[P, G]``, for scores that are already 0 where they do not count."""
    row = weights[:, None]
    # A row vector times the transpose: the other order takes six times as long in MKL's batched kernels.
    above = torch.bmm(row, scores.transpose(1, 2))[:, 0]
    if present is None:
        return above, weights.sum(-1, keepdim=True).expand_as(above)
    return above, torch.bmm(row, present.transpose(1, 2))[:, 0]


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
    expect_shape("scores", scores, "P, G, C")
    p, g, c = scores.shape
    expect_shape("weights", weights, "P, C", (p, c))
    dtype = working_dtype(scores, weights)
    weights = weights.to(dtype)
    if mask is None:
        return ratio(*contract(scores.to(dtype), None, weights))
    expect_bool("mask", mask, "P, G, C", (p, g, c))
    reward = _masked_reward(scores, weights, mask)
    return _masked_reward(scores.masked_fill(~mask, 0), weights, mask) if unreadable(reward) else reward


def _masked_reward(scores: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    sums = [contract(*counted(scores[i], mask[i], weights.dtype), weights[i]) for i in prompt_slices(scores)]
    return ratio(torch.cat([above for above, _ in sums]), torch.cat([below for _, below in sums]))
