"""What the functions share: checked shapes, the working precision, masked copies, row normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expect_bool", "expect_scores", "expect_shape", "kept", "normalise", "wide_dtype", "working_dtype"]


def expect_shape(name: str, value: Tensor, axes: str, shape: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless ``value`` has the axes (``"P, G, C"``) and, where given, the sizes it should have."""
    if value.ndim != axes.count(",") + 1 or (shape is not None and tuple(value.shape) != shape):
        wanted = f"[{axes}]" if shape is None else f"[{axes}] = {shape}"
        raise ValueError(f"`{name}` must be {wanted}, got {tuple(value.shape)}")


def expect_bool(name: str, value: Tensor | None, axes: str, shape: tuple[int, ...]) -> None:
    """Raise unless ``value`` is None or a boolean tensor of exactly this shape."""
    if value is None:
        return
    expect_shape(name, value, axes, shape)
    if value.dtype != torch.bool:
        raise TypeError(f"`{name}` must be torch.bool (True = counts), got {value.dtype}")


def expect_scores(scores: Tensor, mask: Tensor | None, weights: Tensor | None = None) -> None:
    """Raise unless these are ``[P, G, C]``, ``[P, G, C]`` bool or None, and ``[P, C]`` or None."""
    expect_shape("scores", scores, "P, G, C")
    if weights is not None:
        expect_shape("weights", weights, "P, C", (scores.shape[0], scores.shape[2]))
    expect_bool("mask", mask, "P, G, C", tuple(scores.shape))


def working_dtype(*values: Tensor) -> torch.dtype:
    """Precision to compute in: that of the inputs, at least float32."""
    dtype = torch.float32
    for value in values:
        dtype = torch.promote_types(dtype, value.dtype)
    return dtype


def wide_dtype(values: Tensor) -> torch.dtype:
    """Precision of sums over batches: float64, or float32 on MPS, which knows no float64."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def kept(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values`` with 0 where ``mask`` is False; what stands there, NaN even, is not read."""
    return values if mask is None else torch.where(mask, values, values.new_zeros(()))  # quicker than to fill a copy


def normalise(rows: Tensor) -> Tensor:
    """Divide each row by its sum; rows of zeros stay zeros and rows that already sum to 1 stay as they are, bit by bit."""
    total = rows.sum(-1, keepdim=True)
    done = (total - 1).abs() <= 4 * torch.finfo(rows.dtype).eps
    return rows / total.masked_fill(done | (total <= 0), 1)
