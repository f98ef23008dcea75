"""A policy made ready for training, whole or split over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from lightning_focal.models.lora import Lora, apply_lora
from lightning_focal.models.sharding import Sharding, fill_and_shard
from lightning_focal.models.skeleton import empty_policy
from lightning_focal.models.source import load_policy, load_tokenizer

__all__ = ["load_sharded", "load_trainable"]


def load_trainable(
    source: str,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    cache_dir: str | None = None,
    lora: Lora | None = None,
    gradient_checkpointing: bool = False,
) -> tuple[Any, Any]:
    """Load a policy as :func:`~lightning_focal.models.load_policy` does, with adapters and gradient checkpointing where wanted.

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
    return _fit_out(policy, lora, gradient_checkpointing), tokenizer


def _fit_out(policy: Any, lora: Lora | None, gradient_checkpointing: bool) -> Any:
    model: Any = policy if lora is None else apply_lora(policy, lora)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora is not None:
            model.enable_input_require_grads()
    return model


def load_sharded(
    source: str,
    mesh: Any,
    sharding: Sharding,
    device: torch.device,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    cache_dir: str | None = None,
    lora: Lora | None = None,
    gradient_checkpointing: bool = False,
    copies: Callable[[Any], Sequence[nn.Module]] = lambda policy: (),
) -> tuple[Any, Any]:
    """Load a policy split over processes; a collective.

    The first process reads it into main memory, in the precision it is stored in; the others build it without weights, and are
    sent theirs block by block. No device ever holds more than one block whole.

    Args:
        source: see :func:`load_trainable`, as for all that are not explained here.
        mesh: of the processes, see :func:`~lightning_focal.models.sharding.shard`.
        sharding: how it is split.
        device: to compute on.
        dtype: of the weights; ``auto`` is refused.
        attn_implementation: see there.
        cache_dir: see there.
        lora: see there.
        gradient_checkpointing: see there.
        copies: given the policy while it is empty, returns copies of it that are to be filled and split alike.

    Returns:
        The model, in eval mode, and its tokenizer.

    Raises:
        ValueError: for ``dtype: auto``.
        RuntimeError: on every process, where the first one could not read the policy.
    """
    if dtype == "auto":
        raise ValueError(
            "`model.dtype` must be float32, bfloat16 or float16 for a policy that is split over processes, got 'auto'"
        )
    told: list[Any] = [None, None, None]
    whole, failure = None, None
    if dist.get_rank() == 0:
        try:
            whole, _ = load_policy(source, dtype="auto", cache_dir=cache_dir)
            told = [None, whole.config, whole.generation_config]
            whole = whole if lora is None else apply_lora(whole, lora)
        except Exception as error:  # the others wait for word
            failure, told = error, [f"{type(error).__name__}: {error}", None, None]
    dist.broadcast_object_list(told, 0)
    if failure is not None:
        raise failure
    wrong, config, generation_config = told
    if wrong is not None:
        raise RuntimeError(f"the first process could not load the policy: {wrong}")
    tokenizer = load_tokenizer(source, cache_dir=cache_dir)
    empty = empty_policy(config, dtype, attn_implementation)
    empty.generation_config = generation_config
    policy = _fit_out(empty, lora, gradient_checkpointing)
    fill_and_shard(policy, copies(policy), whole, mesh, sharding, device)
    return policy.eval(), tokenizer
