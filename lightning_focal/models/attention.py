"""A model's attention handed in for a while, and the question whether it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced_attention", "takes_attention"]


def takes_attention(model: Any) -> bool:
    """Say whether another attention computes what the model's own does: scores, an additive mask, softmax, and nothing besides.

    Not where scores are soft-capped or a learned sink takes a share of each softmax.

    Args:
        model: a transformers model, no wrapper round it.
    """
    config = model.config.get_text_config()
    return (
        config._attn_implementation == "sdpa"
        and bool(getattr(model, "_supports_attention_backend", False))
        and getattr(config, "attn_logit_softcapping", None) is None
        and not any(name.endswith("sinks") for name, _ in model.named_parameters())
    )


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
