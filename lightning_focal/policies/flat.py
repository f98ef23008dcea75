"""A policy under PyTorch's first ``FullyShardedDataParallel``, whose shards are pieces of flat parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_focal.policies.sharding import blocks_of

__all__ = ["wrap_flat"]


def wrap_flat(model: nn.Module, device: torch.device, blocks: Sequence[str] | None = None, **arguments: Any) -> nn.Module:
    """Wrap a policy, block by block unless told otherwise, as a root of its own.

    A policy that is wrapped as part of its LightningModule would keep what lies outside of blocks sharded after its first
    backward; several forwards in a step need it as a root.

    Args:
        model: a transformers causal language model.
        device: to compute on.
        blocks: class names of the layers that are gathered one at a time; None = what the model itself calls indivisible.
        arguments: of ``FullyShardedDataParallel``; ``auto_wrap_policy`` takes the place of ``blocks``.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    if arguments.get("auto_wrap_policy") is None:
        arguments["auto_wrap_policy"] = ModuleWrapPolicy({type(block) for block in blocks_of(model, blocks)})
    return FullyShardedDataParallel(model, device_id=device, **{"use_orig_params": True, **arguments})
