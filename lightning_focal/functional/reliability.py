"""How far verdicts on a criterion can be trusted: disagreement of repeated judgements, errors against gold, informedness."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import (
    expect_bool,
    expect_scores,
    expect_shape,
    kept,
    normalise,
    working_dtype,
)
from lightning_focal.functional.saturation import scatter_sums
from lightning_focal.functional.weighting import name_columns

__all__ = ["disagreement_sums", "informed_weights", "informedness", "informedness_of_confusion"]


@torch.no_grad()
def disagreement_sums(
    scores: Tensor, repeated: Tensor, mask: Tensor | None = None, index: Tensor | None = None, n: int | None = None
) -> Tensor:
    """How often two judgements of the same differ, by criterion; the sums add up over batches and processes (ours).

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        repeated: ``[P, G, C]``, the scores of a second judgement; NaN = was not judged again, or could not be.
        mask: ``[P, G, C]`` bool, True = the first judgement counts; None = all do.
        index: ``[P, C]`` int64, which of ``n`` names a criterion bears, -1 = none; None = one name a column.
        n: number of names; needed with ``index``.

    Returns:
        ``[2, n]`` float64 (float32 on MPS): sum of ``|first - second|`` (grades count by how far they differ), and number of pairs.

    Raises:
        ValueError: on shapes that do not fit, or an ``index`` without ``n``.
        TypeError: if ``mask`` is not boolean.

    >>> disagreement_sums(torch.tensor([[[1.0], [0.0], [1.0]]]), torch.tensor([[[0.0], [0.0], [float("nan")]]]))
    tensor([[1.],
            [2.]], dtype=torch.float64)
    """
    expect_scores(scores, mask)
    expect_shape("repeated", repeated, "P, G, C", tuple(scores.shape))
    index, n = name_columns(scores, index, n)
    dtype = working_dtype(scores, repeated)
    apart = (scores.to(dtype) - repeated).abs()
    twice = ~repeated.isnan() if mask is None else ~repeated.isnan() & mask
    return torch.stack([scatter_sums(x.sum(1), index, n) for x in (kept(apart, twice), twice.to(dtype))])


def informedness(disagreement: Tensor) -> Tensor:
    """``1 - false positives - false negatives`` of a judge, from how often it disagrees with itself.

    A judge that errs at one rate ``e`` both ways, independently each time, disagrees with itself at the rate ``d = 2 e (1 - e)``; so
    ``1 - 2 e = sqrt(1 - 2 d)`` (ours). A rate of 1/2 or more is what guessing gives: 0.

    Args:
        disagreement: rates in [0, 1], any shape; NaN = not known.

    Returns:
        The same shape, in [0, 1]; NaN where not known.

    >>> informedness(torch.tensor([0.0, 0.18, 0.5, 0.7]))  # 0.18 = 2 * 0.1 * 0.9
    tensor([1.0000, 0.8000, 0.0000, 0.0000])
    """
    return (1 - 2 * disagreement).clamp_min(0).sqrt()


def informedness_of_confusion(confusion: Tensor) -> Tensor:
    """``true positives / positives + true negatives / negatives - 1`` against gold verdicts, at least 0 (Youden's J, 1950).

    Args:
        confusion: ``[..., 2, 2]`` counts, rows are gold verdicts (not met, met), columns the judge's.

    Returns:
        ``[...]`` float64 in [0, 1]; NaN where gold knows met alone, or not met alone.

    Raises:
        ValueError: on another shape.

    >>> informedness_of_confusion(torch.tensor([[8, 2], [1, 9]]))
    tensor(0.7000, dtype=torch.float64)
    """
    if confusion.shape[-2:] != (2, 2):
        raise ValueError(f"`confusion` must be [..., 2, 2], got {tuple(confusion.shape)}")
    right = confusion.double().diagonal(dim1=-2, dim2=-1) / confusion.double().sum(-1)  # 0 / 0 is NaN
    return (right.sum(-1) - 1).clamp_min(0)


@torch.no_grad()
def informed_weights(weights: Tensor, informed: Tensor, mask: Tensor | None = None, power: float = 2.0) -> Tensor:
    """Base weights times informedness: ``b_c J_c^power``, made to sum to 1 (ours).

    A criterion whose verdicts are noise gets no weight. One whose informedness is not known counts in full; where nothing of a row is
    informed the base weights stay.

    Args:
        weights: ``[P, C]`` base weights >= 0.
        informed: ``[P, C]`` in [0, 1]; NaN = not known.
        mask: ``[P, C]`` bool, True = the criterion applies; None = all do.
        power: >= 0; 0 = the base weights.

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0 where nothing applies.

    Raises:
        ValueError: on shapes that do not fit or a negative ``power``.
        TypeError: if ``mask`` is not boolean.

    >>> informed_weights(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.5]]))
    tensor([[0.8000, 0.2000]])
    """
    expect_shape("weights", weights, "P, C")
    expect_shape("informed", informed, "P, C", tuple(weights.shape))
    expect_bool("mask", mask, "P, C", tuple(weights.shape))
    if not power >= 0:
        raise ValueError(f"`power` must be >= 0, got {power}")
    base = kept(weights.to(working_dtype(weights)), mask)
    moved = base * informed.nan_to_num(1.0).to(base.dtype) ** power
    return normalise(torch.where(moved.sum(-1, keepdim=True) > 0, moved, base))
