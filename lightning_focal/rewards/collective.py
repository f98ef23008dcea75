"""Sums over processes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["all_reduce_sum", "distributed"]


def distributed() -> bool:
    """Return whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes, ``value`` itself where there is one; every process must call it."""
    if distributed():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value
