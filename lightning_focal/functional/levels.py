"""One saturation level a name, pooled over prompts whose criteria bear different names in different places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_shape
from lightning_focal.functional.projection import projected_sums

__all__ = ["level_index", "level_sums", "pool_levels", "scatter_sums"]


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
    rows = []
    for p, row in enumerate(keys):
        if len(row) > width:
            raise ValueError(f"`keys[{p}]` must hold at most C = {width} entries, got {len(row)}")
        unknown = [key for key in row if key not in position]
        if unknown:
            raise ValueError(f"`keys[{p}]` must be names of levels ({', '.join(names)}), got {unknown[0]!r}")
        rows.append([position[key] for key in row] + [-1] * (width - len(row)))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width)


def scatter_sums(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Add up ``values [P, C]`` by level: ``[n]``, float64 (float32 on MPS), entries with index -1 left out.

    >>> scatter_sums(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, -1]]), 2)
    tensor([3., 0.], dtype=torch.float64)
    """
    expect_shape("index", index, "P, C", tuple(values.shape))
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    sums = torch.zeros(n + 1, dtype=wide, device=values.device)
    places = torch.where(index < 0, torch.full_like(index, n), index)
    return sums.scatter_add_(0, places.reshape(-1), values.reshape(-1).to(wide))[:n]


@torch.no_grad()
def level_sums(
    scores: Tensor, weights: Tensor, mask: Tensor | None, index: Tensor, n: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Halves of the projection (:func:`projected_sums`), added up by level over all groups.

    The level of name ``k`` is then ``sum_p sum_{c: name k} sum_i q m s / sum_p sum_{c: name k} sum_i q m`` (pooling: ours).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` base weights >= 0.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        index: ``[P, C]`` int64, which of the ``n`` levels a criterion belongs to, -1 = none (:func:`level_index`).
        n: number of levels.
        temperature: > 0, in units of reward.

    Returns:
        ``(projected, judged)``, both ``[n]`` float64 (float32 on MPS); they add up over batches and processes.

    Raises:
        ValueError: on shapes that do not fit.

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
    seen = judged > 0
    level = (projected / torch.where(seen, judged, torch.ones_like(judged))).clamp(0, 1)
    return torch.where(seen, level, torch.full_like(level, torch.nan))
