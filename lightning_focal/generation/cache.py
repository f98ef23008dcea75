"""A key/value cache that grows in steps, and the question whether a model can use it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

__all__ = ["GrowingLayer", "growing_cache", "why_not_growing"]

_ROOM = 64
"""Tokens of room added when a layer is full, at least: ``DynamicLayer`` copies at every token."""

_SHARED_ROOM = 16
"""The same beside shared prompts. There attention reads the whole room: a CPU's batched product copies a part of it first."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values ``[B, heads, length, dim]`` as views of a larger buffer.

    Attributes:
        prompt: after :meth:`share`, keys and values of the prompts; the layer then grows anew, by responses alone.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self.prompt: tuple[Tensor, Tensor] | None = None

    def share(self, repeats: int) -> None:
        """Set apart what is there, ``[P, heads, L, dim]``, for ``P * repeats`` rows to come."""
        before: tuple[Tensor, Tensor] = (self.keys, self.values)  # type: ignore[has-type]
        self.prompt, (rows, heads) = before, before[0].shape[:2]
        keys, values = (t.new_zeros(rows * repeats, heads, _SHARED_ROOM, t.shape[-1]) for t in before)
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :0], values[:, :, :0]

    @property
    def room(self) -> tuple[Tensor, Tensor]:
        """Keys and values with the room for more, which reads 0 beside shared prompts."""
        return self._buffers or (self.keys, self.values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append ``[B, heads, new, dim]``; return everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < end:
            room = end + (max(_ROOM, end // 2) if self.prompt is None else max(_SHARED_ROOM, end // 8) - 1)
            self._buffers = (_widened(self.keys, room), _widened(self.values, room))
        keys, values = self._buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, neighbours together."""
        if self.is_initialized:
            super().batch_repeat_interleave(repeats)
            self._buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``."""
        if self._buffers is None:
            super().batch_select_indices(indices)
            return
        length = self.keys.shape[-2]
        keys, values = (buffer.index_select(0, indices) for buffer in self._buffers)
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]


def _widened(states: Tensor, length: int) -> Tensor:
    batch, heads, used, dim = states.shape
    buffer = states.new_empty(batch, heads, length, dim)
    buffer[:, :, :used] = states
    buffer[:, :, used:] = 0
    return buffer


def growing_cache() -> Any:
    """An empty cache of :class:`GrowingLayer`, one made for every layer of the model at its first use."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def why_not_growing(model: Any) -> str | None:
    """The reason why ``model`` cannot decode with :func:`growing_cache`, or None when it can.

    Args:
        model: a transformers causal language model, no wrapper round it.

    Returns:
        A phrase such as ``"its cache has DynamicSlidingWindowLayer"``.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    missing = {"position_ids", "past_key_values"} - set(inspect.signature(model.forward).parameters)
    if missing:
        return f"its forward takes no {' and no '.join(sorted(missing))}"
    with torch.device("meta"):
        kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    other = sorted(kind.__name__ for kind in kinds - {DynamicLayer})
    return f"its cache has {' and '.join(other)}" if other else None
