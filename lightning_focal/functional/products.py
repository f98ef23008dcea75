"""Float32 matrix products by oneDNN where torch's own choice is slow: AMD processors with AVX-512."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear", "onednn_products", "prefers_onednn"]


@functools.cache
def prefers_onednn() -> bool:
    """Say whether float32 products run by oneDNN here (ours).

    MKL, torch's choice, takes a slow path on AMD processors. The one switch that torch has for oneDNN also allows bfloat16
    arithmetic where the processor has it for whole tiles (AMX): such a processor is left alone, and a product is compared with
    float64 before the switch is used.
    """
    backend: Any = torch.backends.mkldnn
    if not backend.is_available() or not hasattr(getattr(backend, "matmul", None), "fp32_precision"):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)():
        return False
    info = Path("/proc/cpuinfo")
    if not info.exists() or "AuthenticAMD" not in info.read_text(encoding="utf-8", errors="replace"):
        return False
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape, generator=draw) for shape in ((64, 512), (512, 96)))
    with _switched():
        found = left @ right
    exact = left.double() @ right.double()
    return bool((found - exact).abs().max() < 1e-5 * exact.abs().max())


@contextmanager
def _switched() -> Iterator[None]:
    backend: Any = torch.backends.mkldnn
    switch = backend.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


def onednn_products(*tensors: Tensor | None) -> AbstractContextManager[None]:
    """Within the context float32 products on the CPU run by oneDNN, where that is exact and quicker.

    Keep attention out of it: its many small products get slower.

    Args:
        tensors: what is multiplied; nothing changes for another device or precision.

    >>> a = torch.eye(2)
    >>> with onednn_products(a):
    ...     a @ a
    tensor([[1., 0.],
            [0., 1.]])
    """
    mine = all(t is None or (t.dtype == torch.float32 and t.device.type == "cpu") for t in tensors)
    return _switched() if mine and prefers_onednn() else nullcontext()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        with _switched():
            return F.linear(hidden, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        with _switched():
            to_hidden = (rows @ weight).view(hidden.shape) if ctx.needs_input_grad[0] else None
            to_weight = rows.t() @ hidden.reshape(-1, hidden.shape[-1]) if ctx.needs_input_grad[1] else None
        return to_hidden, to_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``hidden @ weight.T + bias`` as :func:`torch.nn.functional.linear`, by oneDNN; float32 on a CPU where that is exact.

    Args:
        hidden: ``[..., I]`` float32.
        weight: ``[O, I]``.
        bias: ``[O]`` or None.

    Returns:
        ``[..., O]``; differentiable once.

    >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))
    tensor([[3.5000]])
    """
    if not prefers_onednn():
        return F.linear(hidden, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, weight, bias)):
        result: Tensor = _Linear.apply(hidden, weight, bias)  # type: ignore[no-untyped-call]
        return result
    with _switched():
        return F.linear(hidden, weight, bias)
