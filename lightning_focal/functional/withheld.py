"""Criteria whose weight is withheld for a time: dropped by chance for a step, or given up because it bought nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape, normalise, working_dtype

__all__ = ["give_back", "patience_step", "rubric_dropout"]


def rubric_dropout(noise: Tensor, applies: Tensor, share: float = 0.4, least: int = 3) -> Tensor:
    """Which criteria take part in a step when ``floor(share n)`` of a prompt's ``n`` are dropped (Rubric Dropout, arXiv:2608.11669).

    Args:
        noise: ``[P, C]`` a draw from [0, 1) for each criterion; those with the smallest are dropped.
        applies: ``[P, C]`` bool, True = the criterion applies to the prompt.
        share: in [0, 1), the paper's are 0.3 to 0.5.
        least: how many are kept at least, >= 1.

    Returns:
        ``[P, C]`` bool, True = takes part.

    Raises:
        ValueError: on shapes that do not fit or a number out of range.
        TypeError: if ``applies`` is not boolean.

    >>> rubric_dropout(torch.tensor([[0.3, 0.1, 0.8, 0.5]]), torch.ones(1, 4).bool(), share=0.5, least=1)
    tensor([[False, False,  True,  True]])
    """
    expect_shape("noise", noise, "P, C")
    expect_bool("applies", applies, "P, C", tuple(noise.shape))
    if not 0 <= share < 1 or least < 1:
        raise ValueError(f"`share` must be in [0, 1) and `least` >= 1, got {share} and {least}")
    number = applies.sum(-1, keepdim=True)
    # The product is rounded before the floor: 0.3 * 10 is a little less than 3.
    dropped = torch.minimum((share * number.double() + 1e-9).floor().long(), (number - least).clamp_min(0))
    order = noise.masked_fill(~applies, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    return applies & (order >= dropped)


@torch.no_grad()
def patience_step(reference: Tensor, waited: Tensor, level: Tensor, extra: Tensor, margin: float = 0.05) -> tuple[Tensor, Tensor]:
    """Count for how many batches a criterion has had more than its base weight without its level moving (ours).

    Where the level has left the reference by ``margin`` or more, or the criterion has no extra weight, the count begins anew at
    today's level. Pure: what it returns is handed to the next call.

    Args:
        reference: ``[K]`` level at which the count began; NaN = not begun.
        waited: ``[K]`` batches counted.
        level: ``[K]`` today's level in [0, 1]; NaN = the criterion was not judged in this batch, and nothing changes.
        extra: ``[K]`` bool, True = has more than its base weight, or would have.
        margin: > 0, how far a level must go to have moved, in units of score.

    Returns:
        ``(reference, waited)``, both ``[K]``.

    >>> nan = float("nan")
    >>> patience_step(torch.tensor([nan, 0.2]), torch.tensor([0.0, 3.0]), torch.tensor([0.1, 0.21]), torch.tensor([True, True]))
    (tensor([0.1000, 0.2000]), tensor([1., 4.]))
    """
    if not margin > 0:
        raise ValueError(f"`margin` must be > 0, got {margin}")
    moved = reference.isnan() | ((level - reference).abs() >= margin)
    anew = moved | ~extra
    reference, waited = (
        torch.where(level.isnan(), old, new)
        for old, new in (
            (reference, torch.where(anew, level.to(reference.dtype), reference)),
            (waited, torch.where(extra, torch.where(moved, torch.ones_like(waited), waited + 1), torch.zeros_like(waited))),
        )
    )
    return reference, waited


@torch.no_grad()
def give_back(weights: Tensor, base: Tensor, spent: Tensor) -> Tensor:
    """Weights in which criteria that are ``spent`` have no more than their base weight (ours).

    What they had above it goes to the others, in proportion to the weights these have. Where there are no others the base weights
    stay.

    Args:
        weights: ``[P, C]`` >= 0, rows sum to 1 or are 0.
        base: ``[P, C]`` base weights, rows likewise.
        spent: ``[P, C]`` bool, True = gives back.

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``spent`` is not boolean.

    >>> give_back(torch.tensor([[0.6, 0.1, 0.3]]), torch.tensor([[0.2, 0.4, 0.4]]), torch.tensor([[True, False, False]]))
    tensor([[0.2000, 0.2000, 0.6000]])
    """
    expect_shape("weights", weights, "P, C")
    expect_shape("base", base, "P, C", tuple(weights.shape))
    expect_bool("spent", spent, "P, C", tuple(weights.shape))
    dtype = working_dtype(weights, base)
    weights, base = weights.to(dtype), base.to(dtype)
    capped = torch.where(spent, torch.minimum(weights, base), torch.zeros_like(weights))
    others = torch.where(spent, torch.zeros_like(weights), weights)
    rest, has = weights.sum(-1, keepdim=True) - capped.sum(-1, keepdim=True), others.sum(-1, keepdim=True)
    given = capped + others * (rest / has.masked_fill(has <= 0, 1))
    any_spent = (spent & (weights > base)).any(-1, keepdim=True)  # the others stay as they are, bit by bit
    return torch.where(any_spent, torch.where(has > 0, normalise(given), base), weights)
