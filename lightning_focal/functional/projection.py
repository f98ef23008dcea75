"""Inverse reward projection: how far the current reward already carries each criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import counted, expect_bool, expect_shape, prompt_slices, unreadable, working_dtype
from lightning_focal.functional.rewarding import contract, ratio

__all__ = ["inverse_reward_projection", "projected_sums"]

# The softmax divides the rounding error of a reward by the temperature: below this one the work is done in float64.
_SINGLE_PRECISION_TEMPERATURE = 0.25


def _rollout_weights(above: Tensor, below: Tensor, temperature: float) -> Tensor:
    valid = below > 0
    reward = ratio(above, below)
    q = torch.softmax(torch.where(valid, reward / temperature, -torch.inf), dim=-1)
    if q.dtype == torch.float64:
        # A weight that underflows would make a criterion that only such rollouts were judged on look unjudged.
        q = q.clamp_min(1e-150)
    return torch.where(valid, q, 0.0)


def _sums(scores: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    if mask is None:
        counts = scores.to(weights.dtype)
        q = _rollout_weights(*contract(counts, None, weights), temperature)
        projected = torch.bmm(q[:, None], counts)[:, 0]
        return projected, q.sum(-1, keepdim=True).expand_as(projected)
    counts, present = counted(scores, mask, weights.dtype)
    q = _rollout_weights(*contract(counts, present, weights), temperature)[:, None]
    return torch.bmm(q, counts)[:, 0], torch.bmm(q, present)[:, 0]


def _all_sums(scores: Tensor, weights: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    if mask is None and scores.dtype == weights.dtype:  # nothing of the size of the scores is made
        return _sums(scores, weights, None, temperature)
    parts = [_sums(scores[i], weights[i], None if mask is None else mask[i], temperature) for i in prompt_slices(scores)]
    return torch.cat([above for above, _ in parts]), torch.cat([below for _, below in parts])


@torch.no_grad()
def projected_sums(
    scores: Tensor, weights: Tensor, mask: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Both halves of the projection, kept apart so that levels can be pooled over groups, steps or processes.

    ``q_i = softmax_i(R_i / temperature)`` over the valid rollouts of the group, with the static reward
    ``R_i = sum_c b_c m_ic s_ic / sum_c b_c m_ic``; returned are ``sum_i q_i m_ic s_ic`` and ``sum_i q_i m_ic``
    (public re-implementation; pooling by adding them up is ours).

    Args:
        scores: ``[P, G, C]`` in [0, 1]; entries that do not count may hold anything.
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count. A rollout without any counted weight takes no part.
        temperature: > 0, in units of reward; infinity gives the group mean, towards 0 the best rollout.

    Returns:
        ``(projected, judged)``, both ``[P, C]``, at least float32 (float64 for small temperatures), without gradient.
        ``judged`` is 0 for a criterion that no valid rollout of the group was judged on, and 1 for one that all were.

    Raises:
        ValueError: on shapes that do not fit or a temperature that is not positive.
        TypeError: if ``mask`` is not boolean.

    >>> scores = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    >>> mask = torch.tensor([[[True, True], [True, False]]])
    >>> projected_sums(scores, torch.tensor([[0.5, 0.5]]), mask, temperature=float("inf"))
    (tensor([[0.5000, 0.0000]]), tensor([[1.0000, 0.5000]]))
    """
    expect_shape("scores", scores, "P, G, C")
    p, g, c = scores.shape
    expect_shape("weights", weights, "P, C", (p, c))
    if mask is not None:
        expect_bool("mask", mask, "P, G, C", (p, g, c))
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0, got {temperature}")
    dtype = working_dtype(scores, weights)
    # MPS knows no float64.
    if temperature < _SINGLE_PRECISION_TEMPERATURE and scores.device.type != "mps":
        dtype = torch.float64
    weights = weights.to(dtype)
    sums = _all_sums(scores, weights, mask, temperature)
    if mask is not None and unreadable(sums[0]):
        return _all_sums(scores.masked_fill(~mask, 0), weights, mask, temperature)
    return sums


@torch.no_grad()
def inverse_reward_projection(scores: Tensor, weights: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Saturation: the level each criterion reaches when the policy follows today's reward.

    ``sigma_c = clip(sum_i q_i m_ic s_ic / sum_i q_i m_ic, 0, 1)`` with ``q_i = softmax_i(R_i / temperature)`` (name and purpose:
    arXiv:2605.26579; formula: public re-implementation). See :func:`projected_sums` for the arguments and errors.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        temperature: > 0, in units of reward.

    Returns:
        ``[P, C]`` in [0, 1], at least float32, without gradient; 0 for a criterion that was never judged.

    >>> scores = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    >>> inverse_reward_projection(scores, torch.tensor([[0.5, 0.5]]))
    tensor([[1.0000, 0.6225]])
    >>> inverse_reward_projection(scores, torch.tensor([[0.5, 0.5]]), temperature=float("inf"))
    tensor([[1.0000, 0.5000]])
    """
    return ratio(*projected_sums(scores, weights, mask, temperature)).clamp(0, 1).to(working_dtype(scores, weights))
