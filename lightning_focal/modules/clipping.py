"""Clipping gradients by their global norm, whole or sharded over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["clip_global_norm"]


@torch.no_grad()
def clip_global_norm(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients so that their norm over all parameters, on all processes, is at most ``limit``.

    Parameters may be whole, or DTensors on one mesh or several (those of tensor-parallel layers lie on another one than the norms
    between them); where shards are only views into a flat parameter (``FullyShardedDataParallel``) the model is asked itself.

    Args:
        model: whose gradients are scaled in place.
        limit: largest norm; infinity = only measure.

    Returns:
        The norm before clipping, a scalar, the same on every process; 0 without gradients.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> layer.weight.grad = torch.tensor([[3.0]])
    >>> clip_global_norm(layer, 1.5), layer.weight.grad
    (tensor(3.), tensor([[1.5000]]))
    """
    own: Any = getattr(model, "clip_grad_norm_", None)
    if own is not None:
        return torch.as_tensor(own(limit))
    grads: dict[Any, list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            grads.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter.grad)
    norms: list[Any] = [torch.nn.utils.get_total_norm(group) for group in grads.values()]
    norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else (norms or [torch.zeros(())])[0]
    factor = (limit / (total + 1e-6)).clamp(max=1.0)
    for group in grads.values():
        shards = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in group]
        torch._foreach_mul_(shards, factor.to(shards[0].device))
    return total
