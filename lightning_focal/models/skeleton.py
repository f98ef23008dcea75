"""A policy without its weights: parameters on the meta device, buffers in place."""

from __future__ import annotations

from typing import Any

__all__ = ["empty_policy"]


def empty_policy(config: Any, dtype: str = "float32", attn_implementation: str | None = None) -> Any:
    """Build the model a configuration describes, in no memory worth mentioning.

    Args:
        config: of transformers.
        dtype: of the parameters: ``float32``, ``bfloat16`` or ``float16``.
        attn_implementation: of transformers; its own choice by default.

    Returns:
        A causal language model in eval mode. Its parameters have shapes and no values; buffers (rotary frequencies), of which no
        checkpoint knows, are computed.

    >>> from transformers import LlamaConfig
    >>> model = empty_policy(LlamaConfig(hidden_size=4096, num_hidden_layers=1))
    >>> next(model.parameters()).device, model.num_parameters()
    (device(type='meta'), 464531456)
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attn_implementation)
    return model.eval()
