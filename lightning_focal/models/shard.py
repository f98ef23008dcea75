"""A policy split over processes, block by block: PyTorch's ``fully_shard`` (FSDP2) and its ``FullyShardedDataParallel``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_focal.foreign import name_before_wrapping
from lightning_focal.models.weights import bare_model, is_flat
from lightning_focal.precision import expect_dtype, resolved_dtype

__all__ = ["Sharding", "adding_backward", "blocks_of", "fill_and_shard", "on_first_rank", "rank", "reshard", "wrap_flat"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]
T = TypeVar("T")


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
        blocks: class names of the layers that are gathered one at a time; None = the entries of the model's list of layers.

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

    Raises:
        ValueError: where nothing is found.

    >>> from lightning_focal.models import load_policy
    >>> [type(block).__name__ for block in blocks_of(load_policy("random:tiny-llama?layers=2")[0])]
    ['LlamaDecoderLayer', 'LlamaDecoderLayer']
    """
    if names is None:
        lists = _outermost([module for module in model.modules() if isinstance(module, nn.ModuleList)])
        found = [*max(lists, key=lambda layers: len([*layers.children()]), default=nn.ModuleList()).children()]
    else:
        found = _outermost([module for module in model.modules() if type(module).__name__ in set(names)])
    if not found:
        raise ValueError(
            f"`sharding.blocks` must name layers of the policy, {type(bare_model(model)).__name__} has none called "
            f"{', '.join(sorted(names or ())) or 'a block'}"
        )
    return found


def _outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    within = {id(inner) for module in modules for inner in module.modules() if inner is not module}
    return [module for module in modules if id(module) not in within]


def rank() -> int:
    """Return the number of this process among those that train together."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def on_first_rank(work: Callable[[], T]) -> T:
    """Let the first process work while the others wait, and give its result to all; an error there is an error everywhere."""
    done: list[Any] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            done[0] = work()
        except Exception as error:  # the others wait for word
            failure, done[1] = error, f"{type(error).__name__}: {error}"
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(done, src=0)
    if done[1] is not None:
        raise failure or RuntimeError(f"the first process failed: {done[1]}")
    result: T = done[0]
    return result


# -- FSDP2 ----------------------------------------------------------------------------------------------------------------


def reshard(model: nn.Module) -> None:
    """Drop what a forward without a backward has left gathered of a model under FSDP2; nothing for any other."""
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
        mesh: of the processes that share the policy; all processes of the default group take part in the exchange.
        sharding: how.
        device: to compute on.
    """
    from torch.distributed.fsdp import fully_shard

    models = [policy, *copies]
    weights = {} if source is None else dict(source.named_parameters())
    names = {id(tensor): name for name, tensor in policy.named_parameters()}
    arguments = sharding.arguments(device)
    for units in zip(*(blocks_of(model, sharding.blocks) for model in models), strict=True):
        _fill(units, names, weights, device)
        for unit in units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=sharding.reshard_after_forward, **arguments)
    _fill(models, names, weights, device)
    for model in models:  # moves buffers to the device, too; what is outside of blocks is kept between a forward and its backward
        fully_shard(model, mesh=mesh, reshard_after_forward=None if model is policy else True, **arguments)
    _fill_buffers(models, source)


def _fill(modules: Sequence[nn.Module], names: dict[int, str], weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Put values into what is still empty of ``modules``, alike in build; the first one's tensors have ``names``."""
    made: dict[int, list[nn.Parameter]] = {}
    for path, module in modules[0].named_modules():
        owners = [other.get_submodule(path) for other in modules]
        for key, empty in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if not empty.is_meta:
                continue
            if id(empty) not in made:  # tied weights stay one
                value = torch.empty(empty.shape, dtype=empty.dtype, device=device)
                if weights:
                    value.copy_(weights[names[id(empty)]].detach())  # from the precision it is stored in
                dist.broadcast(value, 0)
                kinds = [owner.get_parameter(key) for owner in owners]
                made[id(empty)] = [
                    nn.Parameter(value.to(kind.dtype, copy=n > 0), kind.requires_grad) for n, kind in enumerate(kinds)
                ]
            for owner, parameter in zip(owners, made[id(empty)], strict=True):
                setattr(owner, key, parameter)


def _fill_buffers(modules: Sequence[nn.Module], source: nn.Module | None) -> None:
    """Give the buffers of ``modules``, alike in build, the values of the first process."""
    values = dict(source.named_buffers()) if source is not None else {}
    for (name, first), *others in zip(*(module.named_buffers() for module in modules), strict=True):
        value = first.copy_(values[name]) if values else first
        dist.broadcast(value, 0)
        for _, other in others:
            other.copy_(value)


# -- FSDP -----------------------------------------------------------------------------------------------------------------


def wrap_flat(model: nn.Module, device: torch.device, blocks: Sequence[str] | None = None, **arguments: Any) -> nn.Module:
    """Wrap a policy in ``FullyShardedDataParallel``, block by block unless told otherwise, as a root of its own.

    A policy that is wrapped as part of its LightningModule would keep what lies outside of blocks sharded after its first
    backward; several forwards in a step need it as a root. The root itself is empty: what lies outside of blocks is a unit within
    it, which PyTorch frees behind a forward as it frees blocks.

    Args:
        model: a transformers causal language model.
        device: to compute on.
        blocks: class names of the layers that are gathered one at a time; None = the entries of the model's list of layers.
        arguments: of ``FullyShardedDataParallel``; ``auto_wrap_policy`` takes the place of ``blocks``, and ``cpu_offload`` may be a
            bool.

    Raises:
        ValueError: where tied weights would come to lie in two units, and so be two.
    """
    from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    if arguments.get("auto_wrap_policy") is None:
        arguments["auto_wrap_policy"] = ModuleWrapPolicy({type(block) for block in blocks_of(model, blocks)})
    if isinstance(arguments.get("cpu_offload"), bool):
        arguments["cpu_offload"] = CPUOffload(arguments["cpu_offload"])
    arguments = {"use_orig_params": True, "device_id": device, **arguments}
    tied: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), set()).add(name)
    with warnings.catch_warnings():  # adapters are trained beside frozen weights in one unit: meant, and told in the manual
        warnings.filterwarnings("ignore", ".*has both parameters with requires_grad=True and False.*")
        inner = FullyShardedDataParallel(model, **arguments)
        wrapped = FullyShardedDataParallel(inner, **{**arguments, "auto_wrap_policy": None})
    units = {name_before_wrapping(name) for name, unit in inner.named_modules() if is_flat(unit)}
    for names in tied.values():
        holders = {max((u for u in units if not u or name.startswith(f"{u}.")), key=len) for name in names}
        if len(holders) > 1:
            raise ValueError(
                f"`trainer.strategy.auto_wrap_policy` puts tied weights into two units ({', '.join(sorted(names))}), where they would "
                "be trained apart; name classes of layers that hold both or neither"
            )
    return wrapped


def adding_backward(model: Any, backward: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """Have gradients of the backwards of one step add up where the shards wait in main memory: PyTorch would keep the last alone."""
    if not is_flat(model) or not model.cpu_offload.offload_params:
        return backward
    sums: dict[nn.Parameter, Tensor] = {}

    def added(loss: Tensor) -> None:
        model.zero_grad()
        backward(loss)
        for parameter in model.parameters():
            if parameter.grad is not None:
                if parameter in sums:
                    parameter.grad.add_(sums[parameter])
                sums[parameter] = parameter.grad.clone()

    return added
