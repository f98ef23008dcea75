"""How a model takes the keys and values of earlier tokens, by transformers' public cache."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["accepted", "cache_argument", "why_not_cached", "why_not_plain"]


def accepted(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``arguments`` that ``model.forward`` takes.

    Args:
        model: a transformers model, no wrapper round it.
        arguments: by name.
    """
    takes = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in takes}


def cache_argument(model: Any) -> str | None:
    """Return the name of the argument by which ``model.forward`` takes a cache, or None.

    It is ``cache`` from transformers 5.24 on, and ``past_key_values`` before and in code that a model brings along.

    Args:
        model: a transformers causal language model, no wrapper round it.
    """
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


def why_not_cached(model: Any) -> str | None:
    """Return the reason why rows of ``model``'s cache cannot be repeated and chosen, or None when they can.

    Keys and values can be, those of a sliding window too. Recurrent states and indexers go through ``generate()``.

    Args:
        model: a transformers causal language model, no wrapper round it.

    Returns:
        A phrase such as ``"its cache has LinearAttentionLayer"``.
    """
    return _why_not(model, {DynamicLayer, DynamicSlidingWindowLayer})


def why_not_plain(model: Any) -> str | None:
    """Return the reason why not every layer of ``model`` attends to all earlier tokens, or None when each does.

    Args:
        model: a transformers causal language model, no wrapper round it.

    Returns:
        A phrase such as ``"its cache has DynamicSlidingWindowLayer"``.
    """
    missing = "position_ids" not in inspect.signature(model.forward).parameters
    return "its forward takes no position_ids" if missing else _why_not(model, {DynamicLayer})


def _why_not(model: Any, kinds: set[type]) -> str | None:
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if cache_argument(model) is None:
        return "its forward takes neither cache nor past_key_values"
    with torch.device("meta"):
        found = {type(layer) for layer in DynamicCache(config=model.config).layers}
    other = sorted(kind.__name__ for kind in found - kinds)
    return f"its cache has {' and '.join(other)}" if other else None
