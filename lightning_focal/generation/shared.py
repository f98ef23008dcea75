"""Attention of one new token a row to a prompt that rows share and to each row's own response."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lightning_focal.generation.attention import replaced_attention, takes_attention

__all__ = ["SharedPrompts", "shares_prompts"]

_NAME = "lightning_focal_shared"


def shares_prompts(model: Any) -> bool:
    """Say whether ``model`` decodes faster this way: a plain attention on a CPU, where reading keys and values takes the time.

    Args:
        model: a transformers model for which :func:`~lightning_focal.generation.cache.why_not_growing` gives None.
    """
    return next(model.parameters()).device.type == "cpu" and takes_attention(model)


class SharedPrompts:
    """Keys and values of ``P`` prompts, once for the ``G`` rows of each, until rows leave.

    Args:
        model: see :func:`shares_prompts`.
        cache: of :class:`~lightning_focal.generation.cache.GrowingLayer`, filled by the prompts.
        prompt_mask: ``[P, L]`` bool, False = padding.
        repeats: ``G``.
    """

    def __init__(self, model: Any, cache: Any, prompt_mask: Tensor, repeats: int) -> None:
        self.config, self.cache, self.repeats = model.config.get_text_config(), cache, repeats
        self.hidden = None if bool(prompt_mask.all()) else ~prompt_mask.repeat_interleave(repeats, 0)[:, None, None]
        for layer in cache.layers:
            layer.share(repeats)

    def attended(self) -> AbstractContextManager[None]:
        """Within the context the model attends through its ``shared`` argument."""
        return replaced_attention(self.config, _NAME, _attention)

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows; groups may then be of different sizes, so each row gets a prompt of its own."""
        for layer in self.cache.layers:
            layer.batch_select_indices(rows)
            owners = torch.div(rows, self.repeats, rounding_mode="floor")
            layer.prompt = tuple(t.index_select(0, owners) for t in layer.prompt)
        self.repeats = 1
        self.hidden = None if self.hidden is None else self.hidden[rows]

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """``[N, heads, 1, dim]`` queries of a layer, whose keys and values are in the cache, to ``[N, 1, heads, dim]``."""
        kept = self.cache.layers[layer]
        (keys, values), (key, value) = kept.prompt, kept.room
        (n, heads, _, dim), (p, few, length, _) = query.shape, keys.shape
        share, g = heads // few, n // p
        own = (query * scale).reshape(n, few, share, dim)
        grouped = own.reshape(p, g, few, share, dim).transpose(1, 2).reshape(p, few, g * share, dim)
        to_prompt = (
            (grouped @ keys.transpose(2, 3)).reshape(p, few, g, share, length).transpose(1, 2).reshape(n, few, share, length)
        )
        if self.hidden is not None:
            to_prompt = to_prompt.masked_fill(self.hidden, -torch.inf)
        scores = torch.cat([to_prompt, own @ key.transpose(2, 3)], dim=-1)
        scores[..., length + kept.keys.shape[-2] :] = -torch.inf
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        grouped = weights[..., :length].reshape(p, g, few, share, length).transpose(1, 2).reshape(p, few, g * share, length)
        out = (grouped @ values).reshape(p, few, g, share, -1).transpose(1, 2).reshape(n, few, share, -1)
        mixed: Tensor = out + weights[..., length:] @ value
        return mixed.reshape(n, 1, heads, -1)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared: SharedPrompts | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if shared is None or query.shape[2] != 1:
        raise RuntimeError("a decoding step takes one token a row and its `shared` prompts")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(module.layer_idx, query, scale), None
