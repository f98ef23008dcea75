"""Processes that torchrun has started again meet each other, not what is left of those before them."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch.distributed as dist

__all__ = ["rejoin"]


def rejoin(trainer: Any) -> None:
    """Join the processes of a Trainer that were started again; nothing for a first start, or without torchrun.

    torchrun keeps the store in which processes leave their addresses for one another, and PyTorch looks into it under the same
    names after a restart: a process that is quicker than its fellows finds the addresses of processes that are gone, and fails.
    Here every start has names of its own. Lightning takes a group that is there already.

    Args:
        trainer: not started yet; backend and timeout are those of its strategy.
    """
    again, strategy = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0), trainer.strategy
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not again or not shared or dist.is_initialized() or not hasattr(strategy, "_get_process_group_backend"):
        return
    timeout = strategy._timeout
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    own = dist.PrefixStore(f"start-{again}", store)  # type: ignore[attr-defined]
    dist.init_process_group(strategy._get_process_group_backend(), store=own, rank=rank, world_size=count, timeout=timeout)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
