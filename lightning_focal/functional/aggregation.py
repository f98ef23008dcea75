"""From one value a token to one number a step, the same whatever the micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape
from lightning_focal.functional.choices import expect_choice

__all__ = ["AGGREGATIONS", "loss_normaliser", "masked_aggregate"]


def _sequences(mask: Tensor) -> Tensor:
    return mask.any(-1).sum()


def _tokens(mask: Tensor) -> Tensor:
    return mask.sum()


_COUNTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"sequence_mean": _sequences, "token_mean": _tokens, "fixed_length": _sequences}
)
AGGREGATIONS: tuple[str, ...] = tuple(_COUNTS)
"""The names that ``aggregation`` may take."""


def _expect_aggregation(aggregation: str, fixed_length: int | None) -> None:
    expect_choice("aggregation", aggregation, AGGREGATIONS)
    if aggregation == "fixed_length" and (fixed_length is None or fixed_length < 1):
        raise ValueError(f"`fixed_length` must be at least 1 token with aggregation 'fixed_length', got {fixed_length}")


def loss_normaliser(mask: Tensor, aggregation: str = "token_mean", fixed_length: int | None = None) -> Tensor:
    """What the sum over an optimiser step is divided by.

    Tokens for ``token_mean``, sequences with a token for ``sequence_mean``, those times ``fixed_length`` for ``fixed_length``.
    Normalisers of parts add up to that of the whole; over processes, sum them and multiply the loss by the number of processes
    where gradients are averaged (ours).

    Args:
        mask: ``[N, T]`` bool, True = the token counts; of the whole optimiser step.
        aggregation: ``"token_mean"``, ``"sequence_mean"`` or ``"fixed_length"``.
        fixed_length: tokens, for ``"fixed_length"`` alone.

    Returns:
        A scalar float32 tensor.

    Raises:
        ValueError: on an unknown aggregation or a missing ``fixed_length``.
        TypeError: if ``mask`` is not boolean.

    >>> loss_normaliser(torch.tensor([[True, True, False], [True, False, False]]))
    tensor(3.)
    """
    _expect_aggregation(aggregation, fixed_length)
    expect_bool("mask", mask, "N, T", tuple(mask.shape))
    count = _COUNTS[aggregation](mask).to(torch.float32)
    return count * fixed_length if aggregation == "fixed_length" and fixed_length is not None else count


def masked_aggregate(
    values: Tensor,
    mask: Tensor,
    aggregation: str = "token_mean",
    normaliser: Tensor | float | None = None,
    fixed_length: int | None = None,
) -> Tensor:
    """Aggregate per-token values to a scalar.

    ``token_mean``: ``sum m v / sum m`` (the released Co-rewarding code, DAPO arXiv:2503.14476); ``sequence_mean``: the mean over
    sequences of their token means (arXiv:2508.00410 eq. 4, GRPO); ``fixed_length``: ``sum m v / (N L)`` (Dr. GRPO,
    arXiv:2503.20783). Given the ``normaliser`` of the whole step, the results of its micro-batches add up to that of the step.

    Args:
        values: ``[N, T]``.
        mask: ``[N, T]`` bool, True = the token counts; values elsewhere are not read.
        aggregation: see above.
        normaliser: :func:`loss_normaliser` of the whole optimiser step, a scalar, or ``[N]`` where rows belong to terms of a sum
            that are normalised apart (the two sides of arXiv:2508.00410 eq. 8); None = of ``mask``.
        fixed_length: tokens ``L``, for ``"fixed_length"`` alone.

    Returns:
        A scalar; 0 where nothing counts.

    Raises:
        ValueError: on shapes that do not fit, an unknown aggregation or a missing ``fixed_length``.
        TypeError: if ``mask`` is not boolean.

    >>> values, mask = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[True, True], [True, False]])
    >>> masked_aggregate(values, mask), masked_aggregate(values, mask, "sequence_mean")
    (tensor(3.), tensor(3.5000))
    """
    expect_shape("values", values, "N, T")
    expect_bool("mask", mask, "N, T", tuple(values.shape))
    _expect_aggregation(aggregation, fixed_length)
    if normaliser is None:
        normaliser = loss_normaliser(mask, aggregation, fixed_length)
    kept = torch.where(mask, values, torch.zeros_like(values))
    if aggregation == "sequence_mean":
        kept = kept / mask.sum(-1, keepdim=True).clamp_min(1)
    divisor = torch.as_tensor(normaliser, dtype=kept.dtype, device=kept.device)
    divisor = torch.where(divisor > 0, divisor, torch.ones_like(divisor))
    if divisor.ndim == 0:
        return kept.sum() / divisor
    expect_shape("normaliser", divisor, "N", (len(values),))
    return (kept.sum(-1) / divisor).sum()
