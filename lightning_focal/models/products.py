"""A model's linear layers by the quicker library."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_focal.functional import linear, prefers_onednn
from lightning_focal.models.weights import is_sharded

__all__ = ["onednn_linears"]


@contextmanager
def onednn_linears(model: nn.Module, *, but: nn.Module | None = None) -> Iterator[None]:
    """Within the context the model's float32 linear layers on a CPU multiply by oneDNN, forward and backward.

    Nothing happens where :func:`~lightning_focal.functional.prefers_onednn` is False, under autocast, or where the
    model is sharded: which of its weights are whole would depend on what ran before. Attention is left out.

    Args:
        model: any.
        but: a module to leave alone, with all that is in it.
    """
    if not prefers_onednn() or torch.is_autocast_enabled("cpu") or is_sharded(model):
        yield
        return
    left = set() if but is None else set(but.modules())
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and module not in left
        and "forward" not in module.__dict__
        and not module._forward_hooks
        and type(module.weight) is nn.Parameter
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    ]
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    return linear(hidden, layer.weight, layer.bias)
