"""Decoding on a CUDA device as a replayed graph: one launch a token, where a model's own call takes hundreds."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lightning_focal.models.attention import use_layouts
from lightning_focal.models.cache import cache_argument, why_not_plain

__all__ = ["GraphedSteps", "graphs_steps"]

_log = logging.getLogger(__name__)
_told: set[str] = set()

_WORTH = 16
"""Tokens to decode from which on capturing, the price of about three tokens, pays."""


def graphs_steps(model: Any, tokens: int) -> bool:
    """Say whether decoding ``tokens`` more tokens is worth a graph: on CUDA, with an attention that can be handed in."""
    if next(model.parameters()).device.type != "cuda" or tokens < _WORTH or type(model).__name__ in _told:
        return False
    return why_not_plain(model) is None and use_layouts(model) is None


class GraphedSteps:
    """Decoding steps of ``N`` rows over keys and values of a fixed length ``S``, captured once and replayed for every token.

    Made anew for every batch of rollouts, so that neither the graph nor its keys and values outlive it: weights may move, and
    the update needs the memory.
    """

    def __init__(self, model: Any, bare: Any, cache: Any, prompt_mask: Tensor, repeats: int, room: int) -> None:
        self.model, self._cache_name = model, str(cache_argument(bare))
        length = prompt_mask.shape[1]
        size = -(-(length + room) // 8) * 8  # the kernel wants rows of the bias aligned
        self._slot = torch.full((1,), length, device=prompt_mask.device)
        self._layers = [
            _FixedLayer(_spread(layer.keys, repeats, size), _spread(layer.values, repeats, size), self._slot)
            for layer in cache.layers
        ]
        dtype = self._layers[0].keys.dtype
        bias = torch.full((len(prompt_mask), 1, 1, size), -torch.inf, dtype=dtype, device=prompt_mask.device)
        bias[..., :length].masked_fill_(prompt_mask[:, None, None], 0)
        self.bias = bias.repeat_interleave(repeats, 0)
        self._rows(len(self.bias))

    @classmethod
    def of(cls, model: Any, bare: Any, cache: Any, prompt_mask: Tensor, repeats: int, room: int) -> GraphedSteps | None:
        """The steps, captured; None for a model whose call cannot be, and where memory is short, which is logged."""
        try:
            steps = cls(model, bare, cache, prompt_mask, repeats, room)
            steps._capture()
        except torch.OutOfMemoryError as error:
            _log.warning("this batch is decoded without a CUDA graph, which found no memory: %s", str(error).splitlines()[0])
            return None
        except RuntimeError as error:
            _told.add(type(bare).__name__)
            _log.warning("%s decodes without a CUDA graph: %s", type(bare).__name__, str(error).splitlines()[0])
            return None
        return steps

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        """Take one token a row.

        Returns:
            ``[N, V]`` logits, overwritten by the next step.
        """
        self._token.copy_(token[:, None])
        self._position.copy_(position)
        self._graph.replay()
        self._slot.add_(1)
        return self._logits

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, ``[n]`` indices."""
        self.bias = self.bias.index_select(0, rows)
        for layer in self._layers:
            layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)
        self._rows(len(rows))
        self._capture()

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, dropout: float, scale: float | None) -> Tensor:
        """See :class:`~lightning_focal.models.attention.Layout`; one query a row."""
        n, heads, _, dim = query.shape
        few = keys.shape[1]
        shared = query.reshape(n, few, heads // few, dim)  # heads that share keys are queries of one head
        bias = self.bias.expand(n, few, heads // few, -1)
        out = torch.nn.functional.scaled_dot_product_attention(shared, keys, values, attn_mask=bias, scale=scale)
        return out.reshape(n, 1, heads, -1)

    def _rows(self, count: int) -> None:
        self._token = torch.zeros(count, 1, dtype=torch.int64, device=self.bias.device)
        self._position = torch.zeros_like(self._token)

    def _forward(self) -> Tensor:
        from transformers.cache_utils import Cache

        self.bias.index_fill_(3, self._slot, 0)
        inputs = {"input_ids": self._token, "position_ids": self._position, "use_cache": True}
        logits: Tensor = self.model(**inputs, **{self._cache_name: Cache(layers=self._layers)}, layout=self).logits[:, -1]
        return logits

    def _capture(self) -> None:
        side = _side_stream(self.bias.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._forward()  # what a library sets up at its first call must not be captured; the slot is written again
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._forward()


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values ``[N, heads, S, dim]`` of a fixed length, written at ``slot``."""

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.slot = keys, values, slot
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write ``[N, heads, 1, dim]``; return everything."""
        self.keys.index_copy_(2, self.slot, key_states)
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: each stream that multiplies keeps a workspace."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _spread(states: Tensor, repeats: int, size: int) -> Tensor:
    """``[P, heads, L, dim]`` to ``[P * repeats, heads, size, dim]``; what follows is 0, since a hidden NaN would still spread."""
    p, heads, length, dim = states.shape
    wide = states.new_zeros(p * repeats, heads, size, dim)
    wide[:, :, :length] = states.repeat_interleave(repeats, 0)
    return wide
