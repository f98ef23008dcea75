"""Clipping gradients by their global norm, whole or sharded over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["clip_global_norm"]


@torch.no_grad()
def clip_global_norm(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients so that their norm over all parameters, on all processes, is at most ``limit``.

    Parameters may be whole, or DTensors on one mesh; ``FullyShardedDataParallel``, whose shards are views into flat parameters, is
    asked itself.

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
    grads: list[Any] = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(grads)
    total: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if grads:
        factor = (limit / (total + 1e-6)).clamp(max=1.0)
        for grad in grads:
            local = grad.to_local() if hasattr(grad, "to_local") else grad
            local.mul_(factor.to(local.device))
    return total
