"""A policy split over processes, block by block (PyTorch's ``fully_shard``, known as FSDP2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_focal.functional.flat import drop_gathered, is_flat
from lightning_focal.models.tensor_parallel import layer_styles, split_layers
from lightning_focal.models.weights import bare_model
from lightning_focal.precision import expect_dtype, resolved_dtype

__all__ = ["Sharding", "blocks_of", "fill_and_shard", "put_away", "shard"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Sharding:
    """How a policy is split; read under Lightning's ``ModelParallelStrategy``, without effect on one process.

    Args:
        param_dtype: blocks are gathered and computed in it; None = as the weights are stored. ``bfloat16`` halves the traffic and
            the memory of gathered blocks; weights, gradients and optimiser states stay as they are. ``auto``: bfloat16 where the
            device is quick at it, else float32.
        reduce_dtype: gradients are summed over processes in it; None = ``param_dtype``.
        reshard_after_forward: drop a block's gathered weights after its forward and gather them again in backward: less memory,
            half as much traffic again.
        cpu_offload: keep the shards, their gradients and the optimiser's states in main memory. On GPUs the strategy then needs
            ``process_group_backend: cpu:gloo,cuda:nccl``.
        blocks: class names of the layers that are gathered one at a time; None = what the model itself calls indivisible.

    Raises:
        ValueError: for an unknown precision.
    """

    param_dtype: Precision | None = None
    reduce_dtype: Precision | None = None
    reshard_after_forward: bool = True
    cpu_offload: bool = False
    blocks: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("param_dtype", "reduce_dtype"):
            expect_dtype(f"sharding.{name}", getattr(self, name))

    def arguments(self, device: torch.device | str) -> dict[str, Any]:
        """Return what ``fully_shard`` takes beside the mesh, for blocks that are computed on ``device``."""
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

        names = {name: resolved_dtype(getattr(self, name), device) for name in ("param_dtype", "reduce_dtype")}
        dtypes: dict[str, Any] = {name: None if dtype is None else getattr(torch, dtype) for name, dtype in names.items()}
        return {
            "mp_policy": MixedPrecisionPolicy(**dtypes),
            "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if self.cpu_offload else OffloadPolicy(),
        }


def blocks_of(model: nn.Module, names: Sequence[str] | None = None) -> list[nn.Module]:
    """Return the layers of a policy that are gathered one at a time, outermost ones alone.

    Args:
        model: a transformers model, possibly peft-wrapped.
        names: class names; None = the model's ``_no_split_modules``, or else the entries of its longest list of layers.

    Raises:
        ValueError: where nothing is found.

    >>> from lightning_focal.models import load_policy
    >>> [type(block).__name__ for block in blocks_of(load_policy("random:tiny-llama?layers=2")[0])]
    ['LlamaDecoderLayer', 'LlamaDecoderLayer']
    """
    wanted = set(names or getattr(bare_model(model), "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in wanted]
    if not found and names is None:
        found = [*max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len, default=())]
    within = {id(inner) for block in found for inner in block.modules() if inner is not block}
    found = [block for block in found if id(block) not in within]
    if not found:
        raise ValueError(
            f"`sharding.blocks` must name layers of the policy, {type(bare_model(model)).__name__} has none called "
            f"{', '.join(sorted(wanted)) or 'a block'}"
        )
    return found


@dataclass(frozen=True)
class _Layout:
    """Over which processes a policy is split.

    Args:
        blocks: mesh of the processes that share the slices of blocks.
        outside: of those that share what lies outside of blocks. Under tensor parallelism that is computed by all alike and shared
            by all: each weight has one owner, and no copies of it that rounding could drive apart.
        layers: of those that compute a layer together, or None.
    """

    blocks: Any
    outside: Any
    layers: Any

    @classmethod
    def of(cls, mesh: Any) -> _Layout:
        from torch.distributed.device_mesh import init_device_mesh

        if mesh.ndim == 1:
            return cls(mesh, mesh, None)
        if mesh["tensor_parallel"].size() == 1:
            return cls(mesh["data_parallel"], mesh["data_parallel"], None)
        # It says once for each kind of exchange that slices of slices are gathered in two steps, as they have to be.
        logging.getLogger("torch.distributed.tensor._redistribute").addFilter(_tells_no_number_of_steps)
        return cls(mesh["data_parallel"], init_device_mesh(mesh.device_type, (mesh.size(),)), mesh["tensor_parallel"])

    def split(self, unit: nn.Module, styles: Mapping[nn.Module, str]) -> None:
        """Split the layers within a unit that are computed together, before its slices are shared out."""
        if self.layers is not None:
            split_layers(unit, self.layers, styles)

    def styles(self, model: nn.Module, blocks: Sequence[nn.Module]) -> dict[nn.Module, str]:
        """How layers within the blocks of a model are split; nothing without tensor parallelism."""
        if self.layers is None:
            return {}
        styles, within = layer_styles(model), {module for block in blocks for module in block.modules()}
        if outside := [type(layer).__name__ for layer in styles if layer not in within]:
            raise ValueError(
                "`model.sharding.blocks` must hold all layers that `trainer.strategy.tensor_parallel_size` splits, "
                f"got blocks without {len(outside)} of {len(styles)} of them"
            )
        return styles


def _tells_no_number_of_steps(record: logging.LogRecord) -> bool:
    return "While redistributing" not in record.getMessage()


def shard(model: nn.Module, mesh: Any, sharding: Sharding) -> None:
    """Split every block of a model, then what lies outside of them, over the processes of a mesh.

    Args:
        model: parameters in memory, or on the meta device.
        mesh: one-dimensional, or with the dimensions ``data_parallel`` and ``tensor_parallel``.
        sharding: how.
    """
    from torch.distributed.fsdp import fully_shard

    layout, blocks = _Layout.of(mesh), blocks_of(model, sharding.blocks)
    styles, arguments = layout.styles(model, blocks), sharding.arguments(mesh.device_type)
    for block in blocks:
        layout.split(block, styles)
        fully_shard(block, mesh=layout.blocks, reshard_after_forward=sharding.reshard_after_forward, **arguments)
    fully_shard(model, mesh=layout.outside, **arguments)


def put_away(model: nn.Module) -> None:
    """Drop what a forward without a backward has left gathered of a sharded model; nothing for any other."""
    if is_flat(model):
        drop_gathered(model)
        return
    from torch.distributed.fsdp import FSDPModule

    for unit in model.modules():  # with `reshard_after_forward: false` the blocks, too
        if isinstance(unit, FSDPModule):
            unit.reshard()


def fill_and_shard(
    policy: nn.Module, copies: Sequence[nn.Module], source: nn.Module | None, mesh: Any, sharding: Sharding, device: torch.device
) -> None:
    """Give an empty policy its weights and split it, one block at a time: no process ever holds more than a block of it whole.

    Args:
        policy: parameters on the meta device; filled and split in place.
        copies: models of the same build (a teacher, a reference), filled with the same weights in their own precision.
        source: the whole policy in main memory, on the first process; None on all others.
        mesh: see :func:`shard`; all processes of the default group take part in the exchange.
        sharding: how.
        device: to compute on.
    """
    from torch.distributed.fsdp import fully_shard

    models = [policy, *copies]
    weights = {} if source is None else dict(source.named_parameters())
    names = {id(tensor): name for name, tensor in policy.named_parameters()}
    arguments, layout = sharding.arguments(device), _Layout.of(mesh)
    blocks = [blocks_of(model, sharding.blocks) for model in models]
    styles: dict[nn.Module, str] = {}
    for model, own in zip(models, blocks, strict=True):
        styles |= layout.styles(model, own)
    for units in zip(*blocks, strict=True):
        _fill(units, names, weights, device)
        for unit in units:
            layout.split(unit, styles)
            fully_shard(unit, mesh=layout.blocks, reshard_after_forward=sharding.reshard_after_forward, **arguments)
    _fill(models, names, weights, device)
    for model in models:  # moves buffers to the device, too; what is outside of blocks is kept between a forward and its backward
        fully_shard(model, mesh=layout.outside, reshard_after_forward=None if model is policy else True, **arguments)
    _fill_buffers(models, source)


def _fill(modules: Sequence[nn.Module], names: dict[int, str], weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Put values into what is still empty of ``modules``, alike in build; the first one's tensors have ``names``."""
    first = modules[0]
    made: dict[int, list[nn.Parameter]] = {}
    paths = [(path, key) for path, module in first.named_modules() for key in module._parameters]
    for path, key in paths:
        owners = [module.get_submodule(path) for module in modules]
        empty: Any = owners[0]._parameters[key]
        if empty is None or not empty.is_meta:
            continue
        if id(empty) not in made:
            value = torch.empty(empty.shape, dtype=empty.dtype, device=device)
            if weights:
                value.copy_(weights[names[id(empty)]].detach())  # from the precision it is stored in
            dist.broadcast(value, 0)
            kinds: list[Any] = [owner._parameters[key] for owner in owners]
            made[id(empty)] = [nn.Parameter(value.to(kind.dtype, copy=n > 0), kind.requires_grad) for n, kind in enumerate(kinds)]
        for owner, parameter in zip(owners, made[id(empty)], strict=True):
            owner._parameters[key] = parameter


def _fill_buffers(modules: Sequence[nn.Module], source: nn.Module | None) -> None:
    """Give the buffers of ``modules``, alike in build, the values of the first process."""
    values = dict(source.named_buffers()) if source is not None else {}
    for (name, first), *others in zip(*(module.named_buffers() for module in modules), strict=True):
        value = first.copy_(values[name]) if values else first
        dist.broadcast(value, 0)
        for _, other in others:
            other.copy_(value)
