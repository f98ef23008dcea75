"""What the functions of this house share: checked shapes, the working precision, masked copies, row normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["counted", "expect_bool", "expect_shape", "normalise", "working_dtype"]


def expect_shape(name: str, value: Tensor, axes: str, shape: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless ``value`` has the axes (``"P, G, C"``) and, where given, the sizes it should have."""
    if value.ndim != axes.count(",") + 1 or (shape is not None and tuple(value.shape) != shape):
        wanted = f"[{axes}]" if shape is None else f"[{axes}] = {shape}"
        raise ValueError(f"`{name}` must be {wanted}, got {tuple(value.shape)}")


def expect_bool(name: str, value: Tensor, axes: str, shape: tuple[int, ...]) -> None:
    """Raise unless ``value`` is a boolean tensor of exactly this shape."""
    expect_shape(name, value, axes, shape)
    if value.dtype != torch.bool:
        raise TypeError(f"`{name}` must be torch.bool (True = counts), got {value.dtype}")


def working_dtype(*values: Tensor) -> torch.dtype:
    """Precision to compute in: that of the inputs, at least float32."""
    dtype = torch.float32
    for value in values:
        dtype = torch.promote_types(dtype, value.dtype)
    return dtype


def counted(values: Tensor, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ``values`` with 0 where ``mask`` is False (whatever stood there, NaN included), and the mask as numbers."""
    values = values.to(dtype)
    if values.device.type != "cpu":
        return torch.where(mask, values, torch.zeros((), dtype=dtype, device=values.device)), mask.to(dtype)
    # Bytes convert about seven times faster than booleans on a CPU, and a product is as much faster than `where`.
    present = mask.view(torch.uint8).to(dtype)
    product = values * present
    if not bool(torch.isfinite(product.sum())):  # 0 * NaN is NaN: rare enough to pay for a second pass
        product = torch.where(mask, values, torch.zeros((), dtype=dtype))
    return product, present


def normalise(rows: Tensor) -> Tensor:
    """Divide each row by its sum; rows of zeros stay zeros and rows that already sum to 1 stay as they are, bit by bit."""
    total = rows.sum(-1, keepdim=True)
    done = (total - 1).abs() <= 4 * torch.finfo(rows.dtype).eps
    return rows / torch.where(done | (total <= 0), torch.ones_like(total), total)
