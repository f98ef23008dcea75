"""This process among the others of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

__all__ = ["on_first_rank", "rank", "world_size"]

_T = TypeVar("_T")


def world_size() -> int:
    """Return the number of processes, 1 where there is no group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def on_first_rank(work: Callable[[], _T]) -> _T:
    """Let the first process work while the others wait, and give its result to all.

    An error there is an error everywhere: nobody waits for a process that has left.

    Raises:
        RuntimeError: on the other processes, with the first one's message; on the first, what it raised.
    """
    if world_size() == 1:
        return work()
    box: list[tuple[bool, object]] = [(False, None)]
    failure: Exception | None = None
    if rank() == 0:
        try:
            box = [(True, work())]
        except Exception as error:
            failure, box = error, [(False, f"{type(error).__name__}: {error}")]
    dist.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    good, value = box[0]
    if not good:
        raise RuntimeError(f"the first process failed: {value}")
    return value  # type: ignore[return-value]
