"""Log-probabilities of given tokens without a full-size float32 copy of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_focal.functional.certainty import self_certainty

__all__ = ["chunked_logp_from_hidden", "token_logp"]


def _expect_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be > 0, got {value}")


class _TokenLogp(torch.autograd.Function):
    """Keeps the logits as they came and one number a row; both passes work on ``chunk`` rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float, chunk: int) -> Tensor:
        normalisers = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        logp = torch.empty_like(normalisers)
        for start in range(0, logits.shape[0], chunk):
            rows = slice(start, start + chunk)
            scaled = logits[rows].float() / temperature
            normalisers[rows] = scaled.logsumexp(-1)
            logp[rows] = scaled.gather(-1, targets[rows, None])[:, 0] - normalisers[rows]
        ctx.save_for_backward(logits, targets, normalisers)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logp

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets, normalisers = ctx.saved_tensors
        out = torch.empty_like(logits)
        for start in range(0, logits.shape[0], ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            scale = grad[rows, None] / ctx.temperature
            part = (logits[rows].float() / ctx.temperature - normalisers[rows, None]).exp_().mul_(-scale)
            part.scatter_add_(-1, targets[rows, None], scale)
            out[rows] = part
        return out, None, None, None


def token_logp(logits: Tensor, targets: Tensor, temperature: float = 1.0, chunk: int = 256) -> Tensor:
    """Log-probabilities of ``targets`` under ``softmax(logits / temperature)``, in float32.

    ``logp = z_target - logsumexp(z)``, ``z = logits / temperature``. Besides the logits no tensor of their size lives in the
    forward pass, and only their gradient in the backward pass (ours). Differentiable once.

    Args:
        logits: ``[..., V]`` floating point, any precision.
        targets: ``[...]`` int64 token ids.
        temperature: > 0, that of the sampling.
        chunk: rows (tokens) whose float32 copy lives at once.

    Returns:
        ``[...]`` float32, nats.

    Raises:
        ValueError: on shapes that do not fit, a temperature or chunk that is not positive.

    >>> token_logp(torch.tensor([[[0.0, 0.0], [0.0, 1.0986123]]]), torch.tensor([[0, 1]])).exp()
    tensor([[0.5000, 0.7500]])
    """
    _expect_positive(temperature=temperature, chunk=chunk)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"`targets` must be {tuple(logits.shape[:-1])}, the shape of `logits` without V, got {tuple(targets.shape)}"
        )
    flat = logits.reshape(-1, logits.shape[-1])
    logp: Tensor = _TokenLogp.apply(flat, targets.reshape(-1), temperature, chunk)  # type: ignore[no-untyped-call]
    return logp.reshape(targets.shape)


MEASURES = ("entropy", "self_certainty")
"""What can be had beside the log-probability of a token, from the same logits."""


def _head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, measures: tuple[str, ...]
) -> tuple[Tensor, ...]:
    scaled = F.linear(hidden, weight, bias).float() / temperature
    normaliser = scaled.logsumexp(-1)
    made = [scaled.gather(-1, targets[:, None])[:, 0] - normaliser]
    for name in measures:
        if name == "entropy":
            probabilities = (scaled - normaliser[:, None]).exp()
            made.append(normaliser - (probabilities * scaled).sum(-1))
        else:
            made.append(self_certainty(scaled))
    return tuple(made)


def chunked_logp_from_hidden(
    hidden: Tensor,
    lm_head_weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_size: int = 256,
    bias: Tensor | None = None,
    measures: Sequence[str] = (),
    mask: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities from the last hidden states; the logits of a whole batch never live at once.

    The head is applied to ``chunk_size`` tokens at a time and, where a gradient is needed, again in the backward pass (ours).
    Values and gradients are those of the plain computation.

    Args:
        hidden: ``[..., H]`` states that predict ``targets`` (already shifted).
        lm_head_weight: ``[V, H]``.
        targets: ``[...]`` int64 token ids.
        temperature: > 0, that of the sampling.
        chunk_size: tokens whose logits live at once.
        bias: ``[V]``, or None.
        measures: what else to return of each distribution: ``entropy``, ``self_certainty``
            (:func:`~lightning_focal.functional.self_certainty`).
        mask: ``[...]`` bool, True = compute this token; None = all. The others cost nothing and read 0.

    Returns:
        ``(logp, measures)``, each ``[...]`` float32, nats.

    Raises:
        ValueError: on shapes that do not fit, a temperature or chunk size that is not positive, an unknown measure.

    >>> hidden, head = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0986123, 0.0]])
    >>> logp, measured = chunked_logp_from_hidden(hidden, head, torch.tensor([1]), measures=["entropy"])
    >>> logp.exp(), measured["entropy"]
    (tensor([0.7500]), tensor([0.5623]))
    """
    _expect_positive(temperature=temperature, chunk_size=chunk_size)
    if unknown := set(measures) - set(MEASURES):
        raise ValueError(f"`measures` must be among {', '.join(MEASURES)}, got {sorted(unknown)}")
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"`targets` must be {tuple(hidden.shape[:-1])}, the shape of `hidden` without H, got {tuple(targets.shape)}"
        )
    if mask is not None and mask.shape != targets.shape:
        raise ValueError(f"`mask` must have the shape of `targets`, {tuple(targets.shape)}, got {tuple(mask.shape)}")
    rows = hidden.reshape(-1, hidden.shape[-1]) if mask is None else hidden[mask]
    ids = targets.reshape(-1) if mask is None else targets[mask]
    track = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, lm_head_weight, bias))
    parts = []
    for start in range(0, max(len(ids), 1), chunk_size):
        inputs = (
            rows[start : start + chunk_size],
            lm_head_weight,
            bias,
            ids[start : start + chunk_size],
            temperature,
            tuple(measures),
        )
        parts.append(checkpoint(_head, *inputs, use_reentrant=False, preserve_rng_state=False) if track else _head(*inputs))

    def whole(pieces: list[Tensor]) -> Tensor:
        values = torch.cat(pieces)
        if mask is None:
            return values.reshape(targets.shape)
        return values.new_zeros(targets.shape).masked_scatter(mask, values)

    logp, *others = (whole([part[i] for part in parts]) for i in range(1 + len(measures)))
    return logp, dict(zip(measures, others, strict=True))
