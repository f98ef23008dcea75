"""A model's attention handed in for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced_attention"]


@contextmanager
def replaced_attention(config: Any, name: str, attention: Callable[..., Any]) -> Iterator[None]:
    """Within the context a model attends by ``attention``, called as transformers calls an entry of its ``AttentionInterface``.

    Args:
        config: the text config of the model; only its choice of attention is changed, and put back.
        name: to register ``attention`` by.
        attention: gets ``(module, query, key, value, attention_mask, scaling=..., **kwargs)``, whatever the model's call was given.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(name, attention)
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before
