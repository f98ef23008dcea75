"""How a model takes the keys and values of earlier tokens, by transformers' public cache."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["accepted", "cache_argument", "why_not_cached", "why_not_plain"]


def accepted(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those of ``arguments`` that ``model.forward`` takes."""
    takes = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in takes}


def cache_argument(model: Any) -> str | None:
    """Return the name of the argument by which ``model.forward`` takes a cache, or None.

    It is ``cache`` from transformers 5.24 on, and ``past_key_values`` before and in code that a model brings along.
    """
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


def why_not_cached(model: Any) -> str | None:
    """Return the reason why ``model`` takes no cache whose rows can be repeated and chosen, or None when it does."""
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    return "its forward takes neither cache nor past_key_values" if cache_argument(model) is None else None


def why_not_plain(model: Any) -> str | None:
    """Return the reason why not every layer of ``model`` attends to all earlier tokens, or None when each does."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "its forward takes no position_ids"
    with torch.device("meta"):
        found = {type(layer) for layer in DynamicCache(config=model.config).layers}
    other = sorted(kind.__name__ for kind in found - {DynamicLayer})
    return why_not_cached(model) or (f"its cache has {' and '.join(other)}" if other else None)
