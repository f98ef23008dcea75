"""The policy's weights as a plain model has them: shards gathered, adapters merged, in another precision if wanted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.foreign import name_before_wrapping
from lightning_focal.models.lora import has_adapters

__all__ = [
    "RolloutCopy",
    "bare_model",
    "check_adapters",
    "compute_device",
    "eval_mode",
    "expect_same_logits",
    "flat_units",
    "full_weights",
    "is_flat",
    "is_sharded",
]


def is_flat(model: nn.Module) -> bool:
    """Say whether a model is wrapped by PyTorch's first ``FullyShardedDataParallel``.

    >>> is_flat(nn.Linear(1, 1))
    False
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    return isinstance(model, FullyShardedDataParallel)


def is_sharded(policy: nn.Module) -> bool:
    """True when parameters are DTensors (FSDP2) or pieces of flat ones (FSDP): a forward then needs every rank.

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


def bare_model(policy: nn.Module) -> Any:
    """Return the transformers model inside the wrappers of FSDP and peft; one without a wrapper as it is."""
    model: Any = policy
    while is_flat(model):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def eval_mode(model: nn.Module, *, autocast: bool = False) -> Iterator[None]:
    """Within the context ``model`` is in eval mode, without gradients; every module's own mode is put back.

    Not ``inference_mode``: its tensors could not take part in a later backward.

    Args:
        model: left as it was.
        autocast: leave the Trainer's precision on, for what is compared with an update; otherwise the weights' own is used.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), nullcontext() if autocast else torch.autocast(compute_device(model).type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def flat_units(model: nn.Module, *, writeback: bool = False) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Gather a model under ``FullyShardedDataParallel`` one unit at a time; a collective: every rank must exhaust the iterator.

    Yields:
        Names and parameters of a unit, whole for as long as the iterator stands there.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel as Flat

    names = {id(parameter): name_before_wrapping(name) for name, parameter in model.named_parameters()}
    for unit in Flat.fsdp_modules(model):
        others = {id(p) for other in Flat.fsdp_modules(unit) if other is not unit for p in other.parameters()}
        own = [parameter for parameter in unit.parameters() if id(parameter) not in others]
        if own or unit is model:  # the root first: PyTorch sets up all units from it
            with Flat.summon_full_params(unit, recurse=False, writeback=writeback):
                yield [(names[id(parameter)], parameter) for parameter in own]


def full_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every parameter, named as in the plain transformers model.

    Shards are gathered one at a time (a collective: every rank must exhaust the iterator) and low-rank adapters that are
    switched on are added to the layer they adapt: ``W + alpha / r * B A`` (arXiv:2106.09685), embeddings and experts included.

    Args:
        policy: a transformers model, possibly peft-wrapped (LoRA), possibly sharded.

    Yields:
        ``(name, tensor)``, detached, in the policy's precision; tied weights once.

    Raises:
        TypeError: for adapters that cannot be merged, before the first weight; see :func:`check_adapters`.
    """
    base, outer = bare_model(policy), "base_model.model." if has_adapters(policy) else ""
    adapted = check_adapters(base)
    units = flat_units(policy) if is_flat(policy) else iter([[*base.named_parameters()]])
    with torch.no_grad():
        for unit in units:
            for name, parameter in unit:
                if ".lora_" in name:
                    continue
                plain = name.removeprefix(outer).replace(".base_layer", "")
                value = parameter.detach().clone() if is_flat(policy) else _gathered(parameter)
                for layer in adapted.get(plain, ()):
                    value = _merged(value, layer)
                yield plain, value


def check_adapters(model: nn.Module) -> dict[str, list[Any]]:
    """Return peft's layers by the name of the weight they adapt, as the plain model calls it.

    Raises:
        TypeError: naming a module whose adapter cannot be merged: other kinds than plain LoRA, and one on a weight that another
            module shares.
    """
    found: dict[str, list[Any]] = {}
    for name, layer in model.named_modules():
        if ".original_module" in f".{name}" or name.endswith("modules_to_save"):
            raise TypeError(f"only plain LoRA adapters can be merged, {name!r} is a whole module beside its original")
        if not (hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight")):
            continue
        plain = any(getattr(layer, kind, None) for kind in ("lora_A", "lora_embedding_A"))
        if not plain or any(getattr(layer, "use_dora", {}).values()) or getattr(layer, "lora_variant", None):
            raise TypeError(f"only plain LoRA adapters can be merged, {name!r} is another kind ({type(layer).__name__})")
        weight = getattr(layer, "parameter_name", "weight")
        found.setdefault(f"{name_before_wrapping(name).replace('.base_layer', '')}.{weight}", []).append(layer)
    if found:
        shared: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            shared.setdefault(id(parameter), []).append(name_before_wrapping(name).replace(".base_layer", ""))
        for names in shared.values():
            if len(names) > 1 and (hit := [name for name in names if name in found]):
                others = ", ".join(repr(name.rpartition(".")[0]) for name in names if name not in hit) or "another module"
                raise TypeError(f"adapters on {hit[0].rpartition('.')[0]!r} cannot be merged: it shares its weight with {others}")
    return found


def _gathered(parameter: Tensor) -> Tensor:
    value: Any = parameter.detach()
    if not hasattr(value, "full_tensor"):
        return value  # type: ignore[no-any-return]
    if value.device_mesh.device_type != value.device.type:  # shards that wait in main memory
        value = value.to(value.device_mesh.device_type)
    whole: Tensor = value.full_tensor()
    return whole


def _merged(weight: Tensor, layer: Any) -> Tensor:
    if layer.disable_adapters or layer.merged:
        return weight
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A and isinstance(layer.get_base_layer(), nn.Linear):
            down, up = _gathered(layer.lora_A[adapter].weight), _gathered(layer.lora_B[adapter].weight)
            weight = weight + (layer.scaling[adapter] * (up @ down)).to(weight.dtype)
        elif adapter in layer.lora_A or adapter in layer.lora_embedding_A:
            weight = weight + _gathered(layer.get_delta_weight(adapter)).to(weight.dtype)
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
        self._unproven = 3 if has_adapters(policy) else 0  # before a run and at its first rollout adapters change nothing
        self.refresh(policy)

    def fits(self, policy: nn.Module) -> bool:
        """Say whether :meth:`refresh` would make this the copy of ``policy``: same architecture, same device."""
        return bare_model(policy).config == self._config and next(policy.parameters()).device == self.device

    def refresh(self, policy: nn.Module) -> None:
        """Take over the policy's weights; no allocation beyond one parameter.

        Raises:
            KeyError: if the policy has a parameter that the copy lacks.
            RuntimeError: if a policy with adapters and its copy compute different logits; asked the first three times.
        """
        targets = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in full_weights(policy):
                targets[name].copy_(value)
        if self._unproven:
            self._unproven -= 1
            expect_same_logits(policy, self.model, "the copy that rolls out")


def expect_same_logits(policy: nn.Module, other: nn.Module, what: str) -> None:
    """Compare two models on a few tokens; a collective where one is sharded.

    Raises:
        RuntimeError: where their logits differ by more than rounding.
    """
    logits = []
    for model in (policy, other):
        with eval_mode(model):
            found: Any = model(input_ids=torch.arange(8, device=compute_device(model))[None], use_cache=False)
        logits.append(found.logits.float().cpu())
    narrow = any(next(model.parameters()).dtype != torch.float32 for model in (policy, other))
    gap, size = float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max())
    if not gap <= (0.05 if narrow else 1e-3) * size:
        raise RuntimeError(
            f"{what} computes other logits than the policy, by {gap:.2g} of {size:.2g}: {type(bare_model(policy)).__name__}"
        )


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
