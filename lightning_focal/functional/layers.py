"""Parts of a decoder layer that keep little for their backward pass and touch memory seldom."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_focal.functional.products import onednn_products

__all__ = ["gated_mlp", "rms_norm", "rotate"]


class _RMSNorm(torch.autograd.Function):
    """Keeps its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = size.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        made: Tensor = (hidden * scale).mul_(weight)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight, scale = ctx.saved_tensors
        normed = hidden * scale
        to_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, to_weight, None
        part = grad * weight
        mean = (part * normed).mean(-1, keepdim=True)
        return part.addcmul_(normed, mean, value=-1).mul_(scale), to_weight, None


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """``hidden / sqrt(mean(hidden^2) + epsilon) * weight`` (arXiv:1910.07467).

    Args:
        hidden: ``[..., H]`` float32.
        weight: ``[H]`` float32.
        epsilon: > 0.

    Returns:
        ``[..., H]``; differentiable once.

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), 1e-6)
    tensor([[0.8485, 1.1314]])
    """
    made: Tensor = _RMSNorm.apply(hidden, weight, epsilon)  # type: ignore[no-untyped-call]
    return made


class _Rotated(torch.autograd.Function):
    """Keeps nothing of its input."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(states, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    made = states * cos
    same = states.to(made.dtype)
    first, second = same[..., :half], same[..., half:]
    made[..., :half].addcmul_(second, sin[..., :half], value=-1)
    made[..., half:].addcmul_(first, sin[..., half:])
    return made


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv:2104.09864): dimension ``i`` of the first half turns with ``i`` of the second.

    Args:
        states: ``[..., D]``.
        cos: of the angles, broadcast to ``states``, the same in both halves.
        sin: likewise.

    Returns:
        Like ``states``; differentiable once.

    >>> quarter = torch.tensor([1.5707963, 1.5707963])
    >>> rotate(torch.tensor([[1.0, 2.0]]), quarter.cos(), quarter.sin())
    tensor([[-2.0000,  1.0000]])
    """
    made: Tensor = _Rotated.apply(states, cos, sin)  # type: ignore[no-untyped-call]
    return made


class _GatedMLP(torch.autograd.Function):
    """Keeps its input and the two products of it; activation and their product are made again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        with onednn_products(hidden, gate, up, down):
            gates, ups = F.linear(hidden, gate), F.linear(hidden, up)
            ctx.save_for_backward(hidden, gate, up, down, gates, ups)
            return F.linear(F.silu(gates).mul_(ups), down)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, gate, up, down, gates, ups = ctx.saved_tensors
        rows, inputs, gates, ups = (t.flatten(0, -2) for t in (grad, hidden, gates, ups))
        needs = ctx.needs_input_grad
        out: list[Tensor | None] = [None, None, None, None]
        with onednn_products(rows, gate, up, down):
            opened = F.silu(gates)
            if needs[3]:
                out[3] = rows.t() @ (opened * ups)
            between = rows @ down
            to_gates = torch.ops.aten.silu_backward(between * ups, gates)
            to_ups = opened.mul_(between)
            if needs[0]:
                out[0] = (to_gates @ gate).addmm_(to_ups, up).view(hidden.shape)
            out[1] = to_gates.t() @ inputs if needs[1] else None
            out[2] = to_ups.t() @ inputs if needs[2] else None
        return tuple(out)


def gated_mlp(hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """``(silu(hidden gate^T) * (hidden up^T)) down^T`` (SwiGLU, arXiv:2002.05202).

    Args:
        hidden: ``[..., H]``.
        gate: ``[I, H]``.
        up: ``[I, H]``.
        down: ``[H, I]``.

    Returns:
        ``[..., H]``; differentiable once.

    >>> one = torch.ones(1, 1)
    >>> gated_mlp(one, one, 2 * one, 3 * one)  # 3 * 2 * 1 / (1 + exp(-1))
    tensor([[4.3864]])
    """
    made: Tensor = _GatedMLP.apply(hidden, gate, up, down)  # type: ignore[no-untyped-call]
    return made
