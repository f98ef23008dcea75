"""The random state of every generator a run may draw from, as plain data that a safe loader accepts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["restore_rng", "rng_state", "rng_states", "set_rng_state"]


def rng_state() -> dict[str, Any]:
    """Return the states of torch (CPU and CUDA), NumPy and Python."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global generator is what libraries use
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`rng_state` returned; CUDA states only where the number of devices is the same."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def rng_states(world_size: int) -> list[dict[str, Any]]:
    """Return the states of every process in the order of their ranks: a collective where there are several."""
    states: list[Any] = [rng_state()] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(states, rng_state())
    return states


def restore_rng(states: list[dict[str, Any]], rank: int, world_size: int) -> None:
    """Restore what :func:`rng_states` returned: each process its own; on another number of processes none."""
    if len(states) == world_size:
        set_rng_state(states[rank])
