"""Statistics over the valid rollouts of a group, and over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, working_dtype

__all__ = ["batch_moments", "batch_std"]


def expect_valid(values: Tensor, valid: Tensor | None, name: str = "valid") -> None:
    """Raise unless ``valid`` is None or a boolean tensor of the shape of ``values``."""
    if valid is not None:
        expect_bool(name, valid, ", ".join("PGC"[: values.ndim]), tuple(values.shape))


def centre(values: Tensor, valid: Tensor | None, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Return ``(deviations, count)`` over the valid entries along ``dim`` (None = all); deviations are 0 where not valid.

    Deviations of a group are exactly 0 where its values agree up to the rounding of their largest (8 units in the last place):
    a mean of equal numbers need not equal them, and the noise would be blown up by a division.
    """
    if valid is None:
        total, low, high = values.sum(dim, keepdim=True), values.amin(dim, keepdim=True), values.amax(dim, keepdim=True)
        count = torch.full_like(total, values.shape[dim])
    else:
        count = valid.sum(dim, keepdim=True).to(values.dtype)
        total = torch.where(valid, values, 0.0).sum(dim, keepdim=True)
        low = torch.where(valid, values, torch.inf).amin(dim, keepdim=True)
        high = torch.where(valid, values, -torch.inf).amax(dim, keepdim=True)
    # Below the smallest normal number one unit in the last place no longer shrinks with the value.
    largest = torch.maximum(low.abs(), high.abs()).clamp_min(torch.finfo(values.dtype).tiny)
    # Negated, so that a NaN that counts stays visible.
    spread = ~(high - low <= 8 * torch.finfo(values.dtype).eps * largest) & (count > 1)
    deviations = (values - total / count.clamp_min(1)).masked_fill(~spread, 0.0)
    return deviations if valid is None else deviations.masked_fill(~valid, 0.0), count


def batch_moments(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count, sum and sum of squares over all valid entries: what processes add up to share one batch statistic (ours).

    Args:
        values: ``[P, G]``, any scale.
        valid: ``[P, G]`` bool, True = counts; None = all do.

    Returns:
        ``[3]`` float64 (float32 on MPS), to be all-reduced by summing and given to :func:`batch_std`.

    >>> batch_moments(torch.tensor([[1.0, 3.0]]))
    tensor([ 2.,  4., 10.], dtype=torch.float64)
    """
    expect_valid(values, valid)
    if valid is None:
        valid = torch.ones_like(values, dtype=torch.bool)
    wide = working_dtype(values) if values.device.type == "mps" else torch.float64
    kept = torch.where(valid, values.to(wide), torch.zeros((), dtype=wide, device=values.device))
    return torch.stack([valid.sum().to(wide), kept.sum(), kept.square().sum()])


def batch_std(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation from :func:`batch_moments`.

    ``std^2 = (sum x^2 - (sum x)^2 / n) / (n - 1)``.

    Args:
        moments: ``[3]``, summed over the processes.

    Returns:
        ``(mean, std)``, scalars; ``std`` is 0 for fewer than two entries or where only rounding is left.

    >>> batch_std(torch.tensor([2.0, 4.0, 10.0], dtype=torch.float64))
    (tensor(2., dtype=torch.float64), tensor(1.4142, dtype=torch.float64))
    """
    count, total, squares = moments.unbind()
    mean = total / count.clamp_min(1)
    around = squares - total * mean
    around = torch.where(around > 64 * torch.finfo(moments.dtype).eps * squares, around, torch.zeros_like(around))
    return mean, (around / (count - 1).clamp_min(1)).sqrt()
