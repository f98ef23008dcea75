"""Exponential moving average of a policy's weights: the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["cosine_ema_weight", "ema_update"]


def cosine_ema_weight(step: int, total_steps: int, start: float = 0.99, end: float = 0.9999) -> float:
    """Weight of the teacher at a step, from ``start`` to ``end`` along half a cosine.

    ``alpha(k) = end - (end - start) / 2 * (1 + cos(pi k / K))``: the form of the released code with the end points of the
    paper (arXiv:2508.00410), so ``alpha(0) = start`` and ``alpha(K) = end``. The paper's eq. 11 as printed runs from 0.9901 to 1
    and meets neither; the released script ends at 0.99999.

    Args:
        step: ``k`` >= 0, optimiser steps done; beyond ``total_steps`` the weight stays ``end``.
        total_steps: ``K`` >= 1.
        start: weight at step 0, in [0, ``end``].
        end: weight at step ``K``, in [``start``, 1].

    Returns:
        The weight, in [``start``, ``end``].

    Raises:
        ValueError: on arguments outside these ranges.

    >>> [round(cosine_ema_weight(k, 100), 6) for k in (0, 50, 100)]
    [0.99, 0.99495, 0.9999]
    """
    if not step >= 0:
        raise ValueError(f"`step` must be at least 0, got {step}")
    if not total_steps >= 1:
        raise ValueError(f"`total_steps` must be at least 1, got {total_steps}")
    if not 0 <= start <= end <= 1:
        raise ValueError(f"`start` and `end` must satisfy 0 <= start <= end <= 1, got {start} and {end}")
    if step == 0:
        return start
    if step >= total_steps:
        return end
    weight = end - (end - start) / 2 * (1 + math.cos(math.pi * step / total_steps))
    return min(max(weight, start), end)


@torch.no_grad()
def ema_update(teacher: Sequence[Tensor], policy: Sequence[Tensor], weight: float) -> None:
    """Move the teacher's weights a little towards the policy's, in place.

    ``teacher <- weight * teacher + (1 - weight) * policy`` (arXiv:2508.00410, eq. 10), computed as
    ``teacher + (1 - weight) * (policy - teacher)``: a weight that is the same on both sides stays as it is, bit by bit.

    In bfloat16 a step of 1e-4 of the difference would round to nothing, so the teacher is float32. There a difference below 6e-4
    of the weight itself (half a rounding step over 1e-4) waits until it has grown.

    Args:
        teacher: float32 (or float64) tensors, each once: tied weights would otherwise move twice.
        policy: tensors of the same shapes, any floating dtype, any device; not changed. Sharded tensors (DTensor) must be sharded
            alike on both sides, and each process moves its own shards.
        weight: weight of the teacher, in [0, 1].

    Raises:
        TypeError: if a tensor of the teacher is narrower than float32, or one of the policy is not floating.
        ValueError: on lists, shapes or shardings that differ, a tensor given twice, or a ``weight`` outside [0, 1].

    >>> teacher = [torch.zeros(2)]
    >>> ema_update(teacher, [torch.tensor([1.0, 2.0], dtype=torch.bfloat16)], 0.75)
    >>> teacher[0]
    tensor([0.2500, 0.5000])
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"`weight` must lie in [0, 1], got {weight}")
    if len(teacher) != len(policy):
        raise ValueError(f"`policy` must have as many tensors as `teacher`, {len(teacher)}, got {len(policy)}")
    if len({id(tensor) for tensor in teacher}) < len(teacher):
        raise ValueError("`teacher` must hold each tensor once (tied weights too), got one of them twice")
    pairs = [_local_pair(i, t, p) for i, (t, p) in enumerate(zip(teacher, policy, strict=True))]
    for t, p in pairs:
        t.lerp_(p.to(t.device, t.dtype), 1 - weight)


def _local_pair(i: int, teacher: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    if teacher.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"`teacher[{i}]` must be float32, in which 1e-4 of a difference does not vanish, got {teacher.dtype}")
    if not policy.is_floating_point():
        raise TypeError(f"`policy[{i}]` must be floating point, got {policy.dtype}")
    if teacher.shape != policy.shape:
        raise ValueError(f"`policy[{i}]` must have the teacher's shape {tuple(teacher.shape)}, got {tuple(policy.shape)}")
    if _sharding(teacher) != _sharding(policy):
        raise ValueError(f"`policy[{i}]` must be sharded like the teacher, {_sharding(teacher)}, got {_sharding(policy)}")
    # The shards share memory with their DTensor, so what is done to them in place is done to it.
    return _local(teacher), _local(policy)


def _sharding(tensor: Any) -> tuple[Any, ...] | None:
    return (tensor.device_mesh, *tensor.placements) if hasattr(tensor, "to_local") else None


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]
