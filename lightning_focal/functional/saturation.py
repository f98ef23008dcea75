"""How far each criterion is already satisfied: in a group (inverse reward projection), or one level a name over many groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_scores, expect_shape, kept, wide_dtype, working_dtype
from lightning_focal.functional.rewarding import ratio, reward_sums

__all__ = ["inverse_reward_projection", "level_index", "level_sums", "pool_levels", "projected_sums", "scatter_sums"]


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
        ``(projected, judged)``, both ``[P, C]``, at least float32 (float64 for temperatures below 0.25), without gradient.
        ``judged`` is 0 for a criterion that no valid rollout of the group was judged on, and 1 for one that all were.

    Raises:
        ValueError: on shapes that do not fit or a temperature that is not positive.
        TypeError: if ``mask`` is not boolean.

    >>> scores = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    >>> mask = torch.tensor([[[True, True], [True, False]]])
    >>> projected_sums(scores, torch.tensor([[0.5, 0.5]]), mask, temperature=float("inf"))
    (tensor([[0.5000, 0.0000]]), tensor([[1.0000, 0.5000]]))
    """
    expect_scores(scores, mask, weights)
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0, got {temperature}")
    # The softmax divides the rounding error of a reward by the temperature.
    dtype = working_dtype(scores, weights) if temperature >= 0.25 else wide_dtype(scores)
    scores = kept(scores.to(dtype), mask)
    above, below = reward_sums(scores, weights.to(dtype), mask)
    valid = below > 0
    q = torch.softmax(torch.where(valid, ratio(above, below) / temperature, -torch.inf), dim=-1)
    if dtype == torch.float64:  # a weight that underflows would make what only such rollouts were judged on look unjudged
        q = q.clamp_min(1e-150)
    q = torch.where(valid, q, 0.0)
    projected = torch.einsum("pg,pgc->pc", q, scores)
    if mask is None:
        return projected, q.sum(-1, keepdim=True).expand_as(projected)
    return projected, torch.einsum("pg,pgc->pc", q, mask.to(dtype))


@torch.no_grad()
def inverse_reward_projection(scores: Tensor, weights: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Saturation: the level each criterion reaches when the policy follows today's reward.

    ``sigma_c = clip(sum_i q_i m_ic s_ic / sum_i q_i m_ic, 0, 1)`` with ``q_i = softmax_i(R_i / temperature)`` (name and purpose:
    arXiv:2605.26579; formula: public re-implementation). Arguments and errors are those of :func:`projected_sums`.

    Returns:
        ``[P, C]`` in [0, 1], at least float32, without gradient; 0 for a criterion that was never judged.

    >>> scores = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    >>> inverse_reward_projection(scores, torch.tensor([[0.5, 0.5]]))
    tensor([[1.0000, 0.6225]])
    >>> inverse_reward_projection(scores, torch.tensor([[0.5, 0.5]]), temperature=float("inf"))
    tensor([[1.0000, 0.5000]])
    """
    return ratio(*projected_sums(scores, weights, mask, temperature)).clamp(0, 1).to(working_dtype(scores, weights))


def level_index(keys: Sequence[Sequence[str]], names: Sequence[str], width: int) -> Tensor:
    """Positions in ``names`` of the criteria of each prompt.

    Args:
        keys: ``[P][<=C]`` level names; shorter rows are padded.
        names: the ``K`` level names.
        width: ``C``.

    Returns:
        ``[P, C]`` int64, -1 = padding.

    Raises:
        ValueError: on a key that is not among ``names``, or a row longer than ``width``.

    >>> level_index([["b", "a"], ["a"]], ["a", "b"], 2)
    tensor([[ 1,  0],
            [ 0, -1]])
    """
    position = {name: i for i, name in enumerate(names)}
    for p, row in enumerate(keys):
        if len(row) > width:
            raise ValueError(f"`keys[{p}]` must hold at most C = {width} entries, got {len(row)}")
        if unknown := [key for key in row if key not in position]:
            raise ValueError(f"`keys[{p}]` must be names of levels ({', '.join(names)}), got {unknown[0]!r}")
    rows = [[position[key] for key in row] + [-1] * (width - len(row)) for row in keys]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width)


def scatter_sums(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Add up ``values [P, C]`` by level: ``[n]``, float64 (float32 on MPS), entries with index -1 left out.

    >>> scatter_sums(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, -1]]), 2)
    tensor([3., 0.], dtype=torch.float64)
    """
    expect_shape("index", index, "P, C", tuple(values.shape))
    wide = wide_dtype(values)
    sums = torch.zeros(n + 1, dtype=wide, device=values.device)
    return sums.scatter_add_(0, index.masked_fill(index < 0, n).reshape(-1), values.reshape(-1).to(wide))[:n]


@torch.no_grad()
def level_sums(
    scores: Tensor, weights: Tensor, mask: Tensor | None, index: Tensor, n: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Halves of the projection (:func:`projected_sums`), added up by level over all groups.

    The level of name ``k`` is then ``sum_p sum_{c: name k} sum_i q m s / sum_p sum_{c: name k} sum_i q m`` (pooling: ours).
    Other arguments and errors are those of :func:`projected_sums`.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        index: ``[P, C]`` int64, which of the ``n`` levels a criterion belongs to, -1 = none (:func:`level_index`).
        n: number of levels.
        temperature: > 0, in units of reward.

    Returns:
        ``(projected, judged)``, both ``[n]`` float64 (float32 on MPS); they add up over batches and processes.

    >>> scores = torch.tensor([[[1.0, 0.0]], [[0.5, 0.0]]])
    >>> level_sums(scores, torch.full((2, 2), 0.5), None, torch.tensor([[0, 1], [0, -1]]), 2)
    (tensor([1.5000, 0.0000], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64))
    """
    projected, judged = projected_sums(scores, weights, mask, temperature)
    return scatter_sums(projected, index, n), scatter_sums(judged, index, n)


def pool_levels(projected: Tensor, judged: Tensor) -> Tensor:
    """``projected / judged`` in [0, 1], NaN for a level that was never judged.

    >>> pool_levels(torch.tensor([1.5, 0.0]), torch.tensor([2.0, 0.0]))
    tensor([0.7500,    nan])
    """
    return (projected / judged).clamp(0, 1).masked_fill(~(judged > 0), torch.nan)
