"""Log-probabilities from hidden states by liger-kernel, in place of the package's own output layer in chunks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

__all__ = ["expect_liger", "liger_logp"]

_ASKED = ("input_chunk", "weight", "selected_token_ids", "bias", "temperature")


def expect_liger(key: str) -> None:
    """Look for liger-kernel before anything expensive starts.

    Args:
        key: what asked for it.

    Raises:
        ValueError: naming ``key`` and what to install, where it is missing or a version that computes other things.
    """
    try:
        _selected_logp()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`{key}` = 'liger' needs liger-kernel: pip install 'lightning-focal[liger]' ({error})") from error


@functools.cache
def _selected_logp() -> Callable[..., Tensor]:
    """What liger-kernel's fused policy losses make log-probabilities by; it runs on any device."""
    from liger_kernel.chunked_loss.fused_linear_ppo import LigerFusedLinearPPOBase

    found: Any = LigerFusedLinearPPOBase.chunk_forward
    if tuple(inspect.signature(found).parameters) != _ASKED:
        raise AttributeError(f"version {version('liger-kernel')} has another interface")
    return found  # type: ignore[no-any-return]


def liger_logp(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Log-probabilities ``log softmax((hidden W^T + b) / temperature)[target]`` by liger-kernel.

    It goes over 4,096 tokens of the vocabulary at a time, in both passes, and makes no other measure of a distribution. Gradients
    are summed in float32. Under autocast the product is in its precision.

    Args:
        hidden: ``[N, H]`` states that predict ``targets``.
        weight: ``[V, H]``.
        targets: ``[N]`` int64.
        temperature: > 0.
        bias: ``[V]``, or None.

    Returns:
        ``[N]`` float32, nats.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    with torch.autocast(hidden.device.type, enabled=False):
        return _selected_logp()(hidden[None], weight, targets[None], bias, temperature)[0]
