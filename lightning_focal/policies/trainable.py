"""A policy made ready for training."""

from __future__ import annotations

from typing import Any

from lightning_focal.policies.lora import Lora, apply_lora
from lightning_focal.policies.source import load_policy

__all__ = ["load_trainable"]


def load_trainable(
    source: str,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    cache_dir: str | None = None,
    lora: Lora | None = None,
    gradient_checkpointing: bool = False,
) -> tuple[Any, Any]:
    """Load a policy as :func:`~lightning_focal.policies.load_policy` does, with adapters and gradient checkpointing where wanted.

    Args:
        source: where the policy comes from.
        dtype: of the weights.
        attn_implementation: of transformers; its own choice by default.
        cache_dir: where packaged policies are converted to.
        lora: train low-rank adapters in place of the weights.
        gradient_checkpointing: recompute activations in backward.

    Returns:
        The model and its tokenizer.
    """
    policy, tokenizer = load_policy(source, dtype=dtype, attn_implementation=attn_implementation, cache_dir=cache_dir)
    model: Any = policy if lora is None else apply_lora(policy, lora)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora is not None:
            model.enable_input_require_grads()
    return model, tokenizer
