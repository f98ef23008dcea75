"""How many parameters each process holds, counted on the policy itself, built without memory and split as in the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_focal.models import Lora, Sharding, apply_lora, blocks_of, empty_policy, shard

__all__ = ["Counts", "count_parameters"]


@dataclass(frozen=True)
class Counts:
    """Parameters of a policy.

    Args:
        total: of the whole policy, adapters included.
        trained: of these, those that are trained.
        held: on the fullest process.
        held_trained: of these, those that are trained.
        block: of the largest block, or of what a process computes of it, which is gathered as one.
        outside: outside of all blocks: embeddings, output layer.
        blocks: number of blocks.
    """

    total: int
    trained: int
    held: int
    held_trained: int
    block: int
    outside: int
    blocks: int


def count_parameters(
    config: Any,
    dtype: str,
    lora: Lora | None,
    sharding: Sharding,
    processes: int,
    split: bool,
    tensor_parallel: int = 1,
) -> Counts:
    """Build a policy on the meta device, split it over processes that do not exist, and count.

    Args:
        config: of transformers.
        dtype: of the weights.
        lora: adapters, or None.
        sharding: how it is split.
        processes: that share the shards.
        split: False = every process holds all of it.
        tensor_parallel: of these processes, those that compute a layer together; a divisor of their number.

    Returns:
        The numbers of the first process, which is the fullest: what does not divide evenly is rounded up there.
    """
    policy = empty_policy(config, dtype)
    policy = policy if lora is None else apply_lora(policy, lora)
    numbers = {name: (parameter.numel(), parameter.requires_grad) for name, parameter in policy.named_parameters()}
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks_of(policy, sharding.blocks)]
    total, trained = sum(n for n, _ in numbers.values()), sum(n for n, wanted in numbers.values() if wanted)
    held, gathered = {name: n for name, (n, _) in numbers.items()}, max(sizes)
    if split and processes > 1:
        with _nobody(processes // tensor_parallel, tensor_parallel) as mesh:
            shard(policy, mesh, sharding)
            held = {name: parameter.to_local().numel() for name, parameter in policy.named_parameters()}
            gathered = max(sum(_computed(p) for p in block.parameters()) for block in blocks_of(policy, sharding.blocks))
    mine = sum(n for name, n in held.items() if numbers[name][1])
    return Counts(total, trained, sum(held.values()), mine, gathered, total - sum(sizes), len(sizes))


def _computed(parameter: Any) -> int:
    """Numbers of a parameter that a process computes with: all of them, or its slice of a layer computed together."""
    mesh, last = parameter.device_mesh, parameter.placements[-1]
    together = mesh.size(1) if mesh.ndim == 2 and not last.is_replicate() else 1
    return int(parameter.numel()) // together


@contextmanager
def _nobody(data_parallel: int, tensor_parallel: int) -> Iterator[Any]:
    """A mesh of processes that are not there; nothing is ever sent to them."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("a plan is made by a process on its own, this one is part of a group already")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=data_parallel * tensor_parallel)
    try:
        yield init_device_mesh("cpu", (data_parallel, tensor_parallel), mesh_dim_names=("data_parallel", "tensor_parallel"))
    finally:
        dist.destroy_process_group()
