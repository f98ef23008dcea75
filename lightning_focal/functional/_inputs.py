"""What the functions of this house share: checked shapes, the working precision, masked copies, row normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["counted", "expect_bool", "expect_shape", "normalise", "prompt_slices", "unreadable", "working_dtype"]

_ELEMENTS_AT_ONCE = 1 << 19


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
    """Return ``values`` with 0 where ``mask`` is False, and the mask as numbers.

    On a CPU a NaN or infinity that does not count leaves a NaN: see :func:`unreadable`.
    """
    values = values.to(dtype)
    if values.device.type != "cpu":
        return torch.where(mask, values, torch.zeros((), dtype=dtype, device=values.device)), mask.to(dtype)
    # Bytes convert about seven times faster than booleans on a CPU, and a product is as much faster than `where`.
    present = mask.view(torch.uint8).to(dtype)
    return values * present, present


def unreadable(result: Tensor) -> bool:
    """Whether something that :func:`counted` should have left out may have come through (on a CPU alone)."""
    return result.device.type == "cpu" and not bool(torch.isfinite(result.sum()))


def prompt_slices(scores: Tensor) -> list[slice]:
    """Return slices over the prompts whose masked copies stay in a CPU's cache; one slice elsewhere.

    Fresh memory the size of the scores costs a CPU several times what is computed with it.
    """
    p = scores.shape[0]
    step = max(1, _ELEMENTS_AT_ONCE // max(1, scores[0].numel())) if p and scores.device.type == "cpu" else max(1, p)
    return [slice(start, start + step) for start in range(0, max(1, p), step)]


def normalise(rows: Tensor) -> Tensor:
    """Divide each row by its sum; rows of zeros stay zeros and rows that already sum to 1 stay as they are, bit by bit."""
    total = rows.sum(-1, keepdim=True)
    done = (total - 1).abs() <= 4 * torch.finfo(rows.dtype).eps
    return rows / torch.where(done | (total <= 0), torch.ones_like(total), total)
