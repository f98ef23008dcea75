"""Layers of the Llama family by leaner functions, for packed rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_focal.functional import gated_mlp, rms_norm, rotate
from lightning_focal.models.weights import is_sharded

__all__ = ["lean_layers"]

_FAMILY = ("Llama", "Mistral", "Qwen2", "Qwen3")


class _Packed(Protocol):
    """A row of tokens that knows who attends to whom."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
        """``[1, heads, S, dim]`` each to ``[1, S, heads, dim]``."""


@contextmanager
def lean_layers(model: nn.Module) -> Iterator[None]:
    """Within the context norms, rotary positions and gated blocks keep less for backward and read memory less often.

    Only modules of transformers' Llama, Mistral, Qwen2 and Qwen3 with float32 weights on a CPU are touched; adapters in place of
    linear layers go on as they are. Values and gradients stay the same up to rounding.

    Args:
        model: called with a ``packed`` argument within the context.
    """
    modules = () if is_sharded(model) else model.modules()  # which weights are whole would depend on what ran before
    found = {module: run for module in modules if (run := _leaner(module)) is not None}
    for module, run in found.items():
        module.forward = functools.partial(run, module)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _leaner(module: Any) -> Any:
    """The function to run in place of ``forward``, or None."""
    name = type(module).__name__
    if not type(module).__module__.startswith("transformers.models.") or "forward" in module.__dict__:
        return None
    for family in _FAMILY:
        if name == f"{family}RMSNorm":
            return _norm if _is_plain(module.weight) else None
        if name == f"{family}Attention":
            return _attention
        if name == f"{family}MLP":
            layers = (module.gate_proj, module.up_proj, module.down_proj)
            plain = all(
                type(layer) is nn.Linear and layer.bias is None and not layer._forward_hooks and _is_plain(layer.weight)
                for layer in layers
            )
            silu = module.config.hidden_act in ("silu", "swish")
            return _mlp if plain and silu and not torch.is_autocast_enabled("cpu") else None
    return None


def _is_plain(weight: Tensor) -> bool:
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype != torch.float32:
        plain: Tensor = type(module).forward(module, hidden_states)
        return plain
    return rms_norm(hidden_states, module.weight, module.variance_epsilon)


def _mlp(module: Any, x: Tensor) -> Tensor:
    return gated_mlp(x, module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight)


def _attention(
    module: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], packed: _Packed | None = None, **kwargs: Any
) -> Any:
    """``[1, S, H]`` to ``[1, S, H]``, and no weights."""
    if packed is None:
        return type(module).forward(module, hidden_states, position_embeddings, **kwargs)
    query, key, value = (
        project(hidden_states).unflatten(-1, (-1, module.head_dim)) for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = (t[:, :, None] for t in position_embeddings)
    query, key, value = (t.transpose(1, 2) for t in (rotate(query, cos, sin), rotate(key, cos, sin), value))
    dropout = module.attention_dropout if module.training else 0.0
    mixed = packed.attend(query, key, value, dropout, module.scaling)
    return module.o_proj(mixed.flatten(2)), None
