"""One decoding step of a Llama-like model from packed weights: what the model computes, in a quarter of the calls."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_focal.generation.shared import SharedPrompts

__all__ = ["LeanStep", "why_not_lean"]

_log = logging.getLogger(__name__)
_FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_checked: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Models whose first step was compared with their own, and whether it was equal."""


def why_not_lean(model: Any) -> str | None:
    """The reason why :class:`LeanStep` cannot stand for ``model``, or None.

    Args:
        model: a transformers causal language model, no wrapper round it.

    Returns:
        A phrase such as ``"it is not on a CPU"``.
    """
    if type(model).__name__ not in _FAMILY or not type(model).__module__.startswith("transformers."):
        return "it is none of " + ", ".join(_FAMILY)
    weight = model.lm_head.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return "it is not on a CPU in float32 or bfloat16"
    backend: Any = torch.backends.mkldnn
    if not (backend.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "torch comes without oneDNN"
    if model.config.hidden_act not in ("silu", "swish"):
        return f"its activation is {model.config.hidden_act}"
    if not _checked.get(model, True):
        return "its first step gave other logits"
    for module in model.modules():
        leaf = not any(True for _ in module.children())
        plain = type(module).__module__.startswith(("transformers.", "torch.nn.")) and "forward" not in module.__dict__
        if not plain or module._forward_hooks or module._forward_pre_hooks:
            return "parts of it were replaced"
        if leaf and any(type(p) is not nn.Parameter or p.dtype != weight.dtype for p in module.parameters()):
            return "its parameters are sharded or of several precisions"
    return None


@dataclass(frozen=True)
class _Linear:
    """A linear layer in oneDNN's own layout."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, *layers: Any) -> _Linear:
        """Side by side."""
        weight = layers[0].weight if len(layers) == 1 else torch.cat([layer.weight for layer in layers])
        biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
        bias = None if all(layer.bias is None for layer in layers) else torch.cat(biases)
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS), bias)

    def __call__(self, hidden: Tensor, activation: str = "none") -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, self.weight, self.bias, activation, [], "")
        return made

    def with_other(self, hidden: Tensor, other: Tensor, operation: str) -> Tensor:
        """``hidden W + b``, then times or plus ``other``."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, other, self.weight, self.bias, operation)
        return made


_ROWS = 64
"""Rows that packed weights are laid out for; others work as well."""


class LeanStep:
    """Computes the logits of one more token a row.

    Queries, keys and values come from one product; activation, gate and residual are part of the products that make them; weights
    are laid out once for many tokens. The first step of a model is compared with the model's own: if they differ, that is said once
    and the model goes on by itself.

    Args:
        model: one for which :func:`why_not_lean` gives None. Its weights must stay as they are; they are copied.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.exact = model, model.lm_head.weight.dtype == torch.float32
        with torch.no_grad():
            self.layers = [
                (
                    layer,
                    _Linear.of(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                    _Linear.of(layer.self_attn.o_proj),
                    *(_Linear.of(getattr(layer.mlp, name)) for name in ("gate_proj", "up_proj", "down_proj")),
                )
                for layer in model.model.layers
            ]
            self.head = _Linear.of(model.lm_head)

    @classmethod
    def of(cls, model: Any) -> LeanStep | None:
        """The steps of ``model``, or None where it must take its own."""
        return cls(model) if why_not_lean(model) is None else None

    def __call__(self, tokens: Tensor, positions: Tensor, cache: Any, shared: SharedPrompts) -> Tensor:
        """Append a token to every row.

        Args:
            tokens: ``[N, 1]`` int64.
            positions: ``[N, 1]`` int64.
            cache: of ``shared``; keys and values are appended.
            shared: the prompts.

        Returns:
            Logits ``[N, V]``.
        """
        inputs = (tokens, positions, cache, shared)
        if self.model not in _checked:
            _checked[self.model] = self._is_exact(*inputs)
        return self._step(*inputs) if _checked[self.model] else self._own(*inputs)

    def _is_exact(self, tokens: Tensor, positions: Tensor, cache: Any, shared: SharedPrompts) -> bool:
        """Compare a step with the model's own; the cache is left as it was."""
        found = []
        for step in (self._own, self._step):
            found.append(step(tokens, positions, cache, shared).float())
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        own, made = found
        same = bool((made - own).abs().max() <= own.abs().max() * (1e-4 if self.exact else 0.1))
        if not same:
            _log.warning("%s decodes by its own forward: the short way gave other logits", type(self.model).__name__)
        return same

    def _own(self, tokens: Tensor, positions: Tensor, cache: Any, shared: SharedPrompts) -> Tensor:
        with shared.attended():
            logits: Tensor = self.model(
                input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, shared=shared
            ).logits
        return logits[:, -1]

    def _step(self, tokens: Tensor, positions: Tensor, cache: Any, shared: SharedPrompts) -> Tensor:
        base = self.model.model
        hidden = F.embedding(tokens[:, 0], base.embed_tokens.weight)
        cos, sin = (t[:, 0, None] for t in base.rotary_emb(hidden, positions))
        half = cos.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, (layer, to_qkv, to_out, to_gate, to_up, to_down) in enumerate(self.layers):
            attention = layer.self_attn
            qkv = to_qkv(_normed(hidden, layer.input_layernorm)).view(len(tokens), -1, attention.head_dim)
            keys = attention.k_proj.out_features // attention.head_dim
            query, key, value = qkv.split([qkv.shape[1] - 2 * keys, keys, keys], dim=1)
            if hasattr(attention, "q_norm"):
                query, key = _normed(query, attention.q_norm), _normed(key, attention.k_norm)
                turned = torch.cat([query, key], dim=1)
            else:
                turned = qkv[:, : qkv.shape[1] - keys]
            swapped = torch.cat([turned[..., half:], turned[..., :half]], dim=-1)
            turned = torch.addcmul(turned * cos, swapped, sin)
            cache.layers[number].update(turned[:, -keys:, None], value[:, :, None])
            mixed = shared.attend(number, turned[:, :-keys, None], attention.scaling)
            hidden = to_out.with_other(mixed.reshape(len(tokens), -1), hidden, "add")
            rows = _normed(hidden, layer.post_attention_layernorm)
            gated = to_up.with_other(rows, to_gate(rows, "swish"), "mul")
            hidden = to_down.with_other(gated, hidden, "add")
        return self.head(_normed(hidden, base.norm))


def _normed(hidden: Tensor, norm: Any) -> Tensor:
    """``hidden / rms(hidden) * weight``."""
    wide = hidden.float()
    size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = size.square_().div_(hidden.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    normed: Tensor = (wide * scale).to(hidden.dtype) * norm.weight
    return normed
