"""A policy under PyTorch's first ``FullyShardedDataParallel``, whose shards are pieces of flat parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.functional.flat import handles_of, is_flat, plain_name
from lightning_focal.models.sharding import blocks_of

__all__ = ["adding_backward", "wrap_flat"]


def wrap_flat(model: nn.Module, device: torch.device, blocks: Sequence[str] | None = None, **arguments: Any) -> nn.Module:
    """Wrap a policy, block by block unless told otherwise, as a root of its own.

    A policy that is wrapped as part of its LightningModule would keep what lies outside of blocks sharded after its first
    backward; several forwards in a step need it as a root.

    Args:
        model: a transformers causal language model.
        device: to compute on.
        blocks: class names of the layers that are gathered one at a time; None = what the model itself calls indivisible.
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
    tied = _tied(model)
    with warnings.catch_warnings():  # adapters are trained beside frozen weights in one unit: meant, and told in the manual
        warnings.filterwarnings("ignore", ".*has both parameters with requires_grad=True and False.*")
        wrapped = FullyShardedDataParallel(model, device_id=device, **{"use_orig_params": True, **arguments})
    units = sorted((plain_name(name) for name, unit in wrapped.named_modules() if is_flat(unit)), key=len, reverse=True)
    for names in tied:
        if len({next(unit for unit in units if not unit or name.startswith(f"{unit}.")) for name in names}) > 1:
            raise ValueError(
                f"`trainer.strategy.auto_wrap_policy` puts tied weights into two units ({', '.join(sorted(names))}), where they would "
                "be trained apart; name classes of layers that hold both or neither"
            )
    return wrapped


def _tied(model: nn.Module) -> list[set[str]]:
    """Names of parameters that are one."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [found for found in names.values() if len(found) > 1]


def adding_backward(model: Any, backward: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """Have gradients of the backwards of one step add up where the shards wait in main memory: PyTorch would keep the last alone.

    Args:
        model: the policy; any but one that :func:`wrap_flat` has put into main memory is left to PyTorch.
        backward: called with a loss.

    Returns:
        What to call in its place, made anew for every optimiser step.
    """
    if not is_flat(model) or not model.cpu_offload.offload_params:
        return backward
    sums: list[Tensor] = []

    def added(loss: Tensor) -> None:
        flats = [handle.flat_param for handle in handles_of(model)]
        for each in (*flats, *model.parameters()):
            each.grad = None
        backward(loss)
        flats = [flat for flat in flats if flat.grad is not None]
        if sums:
            for flat, earlier in zip(flats, sums, strict=True):
                flat.grad.add_(earlier)  # those of the parameters are views into it
        sums[:] = [flat.grad.clone() for flat in flats]

    return added
