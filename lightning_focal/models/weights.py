"""The policy's weights as a plain model has them: shards gathered, adapters merged, in another precision if wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.functional.flat import is_flat, plain_name, unwrapped, whole_values

__all__ = ["RolloutCopy", "bare_model", "compute_device", "full_weights", "is_held", "is_sharded", "stamp"]


def is_sharded(policy: nn.Module) -> bool:
    """True when parameters are DTensors (FSDP2, tensor parallelism) or pieces of flat ones (FSDP): a forward then needs every rank.

    The answer stays the same while some of the shards are gathered.
    """
    from torch.distributed.fsdp import FSDPModule

    if is_flat(policy) or any(isinstance(module, FSDPModule) for module in policy.modules()):
        return True
    return any(hasattr(parameter, "full_tensor") for parameter in policy.parameters())


def compute_device(policy: nn.Module) -> torch.device:
    """Return the device that ``policy`` computes on; its shards may wait in main memory."""
    if is_flat(policy):
        flat: Any = policy
        return torch.device(flat.compute_device)
    first: Any = next(policy.parameters())
    mesh = getattr(first, "device_mesh", None)
    if mesh is None or mesh.device_type == first.device.type:
        return torch.device(first.device)
    return torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())


def stamp(policy: nn.Module) -> int:
    """Return a number that grows whenever a parameter is changed in place; 0 for a sharded policy, whose parts say nothing."""
    return 0 if is_sharded(policy) else sum(parameter._version for parameter in policy.parameters())


def is_held(held: tuple[nn.Module, int] | None, policy: nn.Module, version: int) -> bool:
    """Say whether an engine beside the trainer has the weights of ``policy``, or must be given them.

    Args:
        held: whose weights it was given last, and their :func:`stamp` then.
        policy: whose weights it is to decode with.
        version: of the weights it was given last.

    Raises:
        RuntimeError: if it has those of ``policy`` as they were before an update.
    """
    if held is None or held[0] is not policy:
        return False
    if held[1] != stamp(policy):
        raise RuntimeError(f"the policy was changed after `sync`: vLLM still has the weights of version {version}")
    return True


def bare_model(policy: nn.Module) -> Any:
    """Return the transformers model inside the wrapper of peft or of FSDP; one without a wrapper as it is."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else unwrapped(policy)  # type: ignore[operator]


def full_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every parameter, named as in the plain transformers model.

    Shards are gathered one at a time (a collective: every rank must exhaust the iterator) and low-rank adapters that are
    switched on are added to the layer they adapt: ``W + alpha / r * B A`` (arXiv:2106.09685).

    Args:
        policy: a transformers model, possibly peft-wrapped (LoRA), possibly sharded.

    Yields:
        ``(name, tensor)``, detached, in the policy's precision; tied weights once.

    Raises:
        TypeError: for adapters other than plain LoRA.
    """
    base, gathered = bare_model(policy), _gathered_layers(policy)
    with torch.no_grad():
        for name, value in _flat_values(policy) if is_flat(policy) else _values(base):
            owner, _, leaf = name.rpartition(".")
            if owner.endswith(".base_layer"):
                owner = owner.removesuffix(".base_layer")
                if leaf == "weight":
                    value = _merged(value, base.get_submodule(owner), owner, gathered)
            yield f"{owner}.{leaf}" if owner else leaf, value


def _values(base: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in base.named_parameters():
        if not _is_adapter(name):
            yield name, _gathered(parameter)


def _is_adapter(name: str) -> bool:
    if "modules_to_save" in name or "lora_magnitude" in name or ".original_module." in name:
        raise TypeError(f"only plain LoRA adapters can be merged, the policy has {name!r}")
    return ".lora_" in name


def _flat_values(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Gather one wrapped unit at a time."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Flat

    outer = "base_model.model." if hasattr(policy, "get_base_model") else ""
    units = {plain_name(name): module for name, module in policy.named_modules() if isinstance(module, Flat)}
    for place, unit in units.items():
        others = tuple(f"{name}." for name in units if name and name != place)
        with Flat.summon_full_params(unit, recurse=False, writeback=False):
            for name, parameter in unit.named_parameters():
                full = plain_name(f"{place}.{name}" if place else name)
                if not full.startswith(others) and not _is_adapter(full):  # others are gathered with their own unit
                    yield full.removeprefix(outer), parameter.detach().clone()  # the gathered one is gone when the unit is left


def _gathered_layers(policy: nn.Module) -> Callable[[nn.Linear], Tensor]:
    """Return what gathers the weight of an adapter's layer; those in flat parameters, which are small, are gathered at once."""
    if not is_flat(policy):
        return lambda layer: _gathered(layer.weight)
    small = [(name, parameter) for name, parameter in policy.named_parameters() if ".lora_" in name]
    values = whole_values(policy, [parameter for _, parameter in small]) if small else []
    whole = {id(parameter): value for (_, parameter), value in zip(small, values, strict=True)}
    return lambda layer: whole[id(layer.weight)].view(layer.out_features, layer.in_features)


def _gathered(parameter: Tensor) -> Tensor:
    value: Any = parameter.detach()
    if not hasattr(value, "full_tensor"):
        return value  # type: ignore[no-any-return]
    if value.device_mesh.device_type != value.device.type:  # shards that wait in main memory
        value = value.to(value.device_mesh.device_type)
    whole: Tensor = value.full_tensor()
    return whole


def _merged(weight: Tensor, layer: Any, name: str, gathered: Callable[[Any], Tensor]) -> Tensor:
    if layer.disable_adapters or layer.merged:
        return weight
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A:
            continue
        if not isinstance(layer.base_layer, nn.Linear) or getattr(layer, "use_dora", {}).get(adapter):
            raise TypeError(f"only plain LoRA adapters of linear layers can be merged, {name!r} is {type(layer).__name__}")
        down, up = gathered(layer.lora_A[adapter]), gathered(layer.lora_B[adapter])
        weight = weight + (layer.scaling[adapter] * (up @ down)).to(weight.dtype)
    return weight


class RolloutCopy:
    """An unsharded, adapter-free copy of a policy that rollouts are sampled from; refreshed in place.

    Args:
        policy: see :func:`full_weights`.
        dtype: of the copy's parameters; None keeps the policy's. Buffers (rotary frequencies) keep theirs.
    """

    def __init__(self, policy: nn.Module, dtype: torch.dtype | None) -> None:
        self.model = _rebuilt(policy, dtype) if is_sharded(policy) else _cloned(policy, dtype)
        self.model.eval().requires_grad_(False)
        self.device = next(policy.parameters()).device
        self._config = bare_model(policy).config
        self.refresh(policy)

    def fits(self, policy: nn.Module) -> bool:
        """Say whether :meth:`refresh` would make this the copy of ``policy``: same architecture, same device."""
        return bare_model(policy).config == self._config and next(policy.parameters()).device == self.device

    def refresh(self, policy: nn.Module) -> None:
        """Take over the policy's weights; no allocation beyond one parameter.

        Raises:
            KeyError: if the policy has a parameter that the copy lacks.
        """
        targets = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in full_weights(policy):
                targets[name].copy_(value)


def _cloned(policy: nn.Module, dtype: torch.dtype | None) -> Any:
    # Parameters are handed to `deepcopy` ready-made, so a copy in the policy's precision never exists.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, dtype=dtype if p.is_floating_point() else None), requires_grad=False)
        for p in policy.parameters()
    }
    clone: Any = copy.deepcopy(policy, memo)
    return clone.unload() if hasattr(clone, "unload") else clone


def _rebuilt(policy: nn.Module, dtype: torch.dtype | None) -> Any:
    from transformers import AutoModelForCausalLM

    base = bare_model(policy)
    first = next(policy.parameters())
    with torch.random.fork_rng(devices=[]), torch.device(compute_device(policy)):
        model = AutoModelForCausalLM.from_config(base.config, dtype=dtype or first.dtype)
    model.generation_config = copy.deepcopy(base.generation_config)
    return model
