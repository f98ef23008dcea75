"""Parameters that PyTorch's first ``FullyShardedDataParallel`` keeps as stretches of flat ones, one stretch a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["drop_gathered", "handles_of", "is_flat", "own_stretches", "plain_name", "unwrapped", "whole_values"]


def is_flat(model: nn.Module) -> bool:
    """True for a model wrapped by ``FullyShardedDataParallel``.

    >>> is_flat(nn.Linear(1, 1))
    False
    """
    return type(model).__name__ == "FullyShardedDataParallel"


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrapper, any other as it is.

    >>> unwrapped(nn.Linear(1, 1))
    Linear(in_features=1, out_features=1, bias=True)
    """
    return model.module if is_flat(model) else model  # type: ignore[return-value]


def plain_name(name: str) -> str:
    """Return a name as it was before wrapping.

    >>> plain_name("_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.weight")
    'model.layers.0.weight'
    """
    kept = (part for part in name.split(".") if part not in ("_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
    return ".".join(kept)


def handles_of(model: nn.Module) -> list[Any]:
    """Return what PyTorch keeps of each flat parameter; without those that no forward has met yet."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Flat

    found = [getattr(unit, "_handle", None) for unit in model.modules() if isinstance(unit, Flat)]
    return [handle for handle in found if handle is not None and hasattr(handle.flat_param, "_local_shard")]


def drop_gathered(model: nn.Module) -> None:
    """Free what forwards without a backward have left gathered, so that the next one sees the shards as they are by then.

    The outermost unit is never freed behind a forward, in the hope of a backward, and with ``SHARD_GRAD_OP`` no unit is.

    Args:
        model: nothing is done where it is not wrapped.
    """
    for handle in handles_of(model):
        if handle.uses_sharded_strategy:
            handle.reshard(free_unsharded_flat_param=True)


@torch.no_grad()
def whole_values(model: Any, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gather parameters, and nothing else of their units; a collective.

    Args:
        model: wrapped.
        parameters: of it, each as this process holds it: a stretch of it, or nothing.

    Returns:
        Their values, flattened, on the device that the model computes on.
    """
    own = [parameter.detach().reshape(-1).to(model.compute_device) for parameter in parameters]
    counts = _counts(model, own)
    if counts is None or not own:
        return own
    width = max(sum(row) for row in counts)
    mine = torch.cat(own)
    rows = [torch.empty(width, dtype=mine.dtype, device=mine.device) for _ in counts]
    dist.all_gather(rows, nn.functional.pad(mine, (0, width - mine.numel())), group=model.process_group)
    parts = [torch.split(row[: sum(lengths)], lengths) for row, lengths in zip(rows, counts, strict=True)]
    return [torch.cat(stretches) for stretches in zip(*parts, strict=True)]


def own_stretches(model: Any, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    """Cut from whole values what this process holds of each parameter; a collective.

    Args:
        model: wrapped.
        parameters: of it, as this process holds them.
        values: whole ones, of any shape.

    Returns:
        Views into ``values``, shaped as ``parameters``.
    """
    counts = _counts(model, parameters)
    if counts is None:
        return [value.view_as(parameter) for parameter, value in zip(parameters, values, strict=True)]
    before = counts[: dist.get_rank(model.process_group)]
    starts = [sum(row[i] for row in before) for i in range(len(values))]
    return [value.reshape(-1)[n : n + p.numel()] for n, p, value in zip(starts, parameters, values, strict=True)]


def _counts(model: Any, parameters: Sequence[Tensor]) -> list[list[int]] | None:
    """How much every process holds of every parameter, ``[process][parameter]``; None where each holds all of it."""
    from torch.distributed.fsdp import ShardingStrategy

    if model.sharding_strategy is ShardingStrategy.NO_SHARD:
        return None
    mine = torch.tensor([parameter.numel() for parameter in parameters], device=model.compute_device)
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size(model.process_group))]
    dist.all_gather(rows, mine, group=model.process_group)
    return [[int(count) for count in row] for row in rows]
