"""Log-probabilities of given tokens without a full-size float32 copy of the logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["chunked_logp_from_hidden"]


def _expect_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be > 0, got {value}")


MEASURES = ("entropy", "self_certainty")
"""What can be had beside the log-probability of a token, from the same logits."""

_KEPT_BYTES = 2**24
"""Float32 probabilities that may wait for the backward pass; more are made again there, a chunk at a time."""


_LEAST_ROWS = 64
"""Tokens that are always worth a product of their own."""


class _HeadLogp(torch.autograd.Function):
    """Log-probabilities and measures of ``[N, H]`` states, ``chunk`` rows of logits at a time in both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
        measures: tuple[str, ...],
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        n = len(targets)
        made = {name: torch.empty(n, dtype=torch.float32, device=hidden.device) for name in ("logp", "normaliser", *measures)}
        keep = any(ctx.needs_input_grad[:3]) and 4 * n * len(weight) <= _KEPT_BYTES
        kept = []
        for start in range(0, n, chunk):
            rows = slice(start, start + chunk)
            scaled = _scaled_logits(hidden[rows], weight, bias, temperature)
            shares = scaled.softmax(-1)  # in one pass; the largest is at least 1 / V, so its logarithm is exact enough
            normaliser = made["normaliser"][rows] = scaled.amax(-1) - shares.amax(-1).log()
            made["logp"][rows] = scaled.gather(-1, targets[rows, None])[:, 0] - normaliser
            if "self_certainty" in measures:
                made["self_certainty"][rows] = normaliser - scaled.mean(-1) - math.log(len(weight))
            if "entropy" in measures:
                made["entropy"][rows] = normaliser - scaled.mul_(shares).sum(-1)
            if keep:
                kept.append(shares)
        ctx.save_for_backward(hidden, weight, bias, targets, made["normaliser"], made.get("entropy"), *kept)
        ctx.temperature, ctx.chunk, ctx.measures = temperature, chunk, measures
        return made["logp"], *(made[name] for name in measures)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers, entropies, *kept = ctx.saved_tensors
        given = dict(zip(("logp", *ctx.measures), grads, strict=True))
        to_hidden, to_weight, to_bias = (
            torch.zeros_like(t) if t is not None and need else None
            for t, need in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        )
        logp_alone = all(grad is None for name, grad in given.items() if name != "logp")
        for number, start in enumerate(range(0, len(targets), ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            of = {name: grad[rows, None] / ctx.temperature for name, grad in given.items() if grad is not None}
            if kept and logp_alone:
                part = (kept[number] * -of["logp"]).scatter_add_(-1, targets[rows, None], of["logp"])
            else:
                scaled = _scaled_logits(hidden[rows], weight, bias, ctx.temperature)
                part = _to_logits(scaled, normalisers[rows, None], entropies, targets[rows, None], of, rows)
            part = part.to(hidden.dtype)
            if to_hidden is not None:
                torch.mm(part, weight, out=to_hidden[rows])
            if to_weight is not None:
                to_weight.addmm_(part.t(), hidden[rows])
            if to_bias is not None:
                to_bias += part.sum(0)
        return to_hidden, to_weight, to_bias, None, None, None, None


def _scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = F.linear(hidden, weight, bias).float()
    return logits if temperature == 1 else logits.div_(temperature)


def _to_logits(
    scaled: Tensor, normaliser: Tensor, entropies: Tensor | None, targets: Tensor, of: dict[str, Tensor], rows: slice
) -> Tensor:
    """Gradient of what was made of some rows, towards their logits before the temperature."""
    logp = scaled.sub_(normaliser)
    slope = torch.zeros_like(normaliser)  # of `p`
    slope = slope - of["logp"] if "logp" in of else slope
    slope = slope + of["self_certainty"] if "self_certainty" in of else slope
    if "entropy" in of and entropies is not None:
        part = logp.exp().mul_(slope - of["entropy"] * (logp + entropies[rows, None]))  # dH/dz = -p (log p + H)
    else:
        part = logp.exp_().mul_(slope)
    if "self_certainty" in of:
        part -= of["self_certainty"] / scaled.shape[-1]
    return part.scatter_add_(-1, targets, of["logp"]) if "logp" in of else part


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

    The head is applied to ``chunk_size`` tokens at a time. Probabilities of more than 16 MiB are not kept for the backward pass but
    made again (ours). Values and gradients are those of the plain computation; differentiable once.

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
    weight = lm_head_weight
    if torch.is_autocast_enabled(hidden.device.type):
        lower = torch.get_autocast_dtype(hidden.device.type)
        rows, weight, bias = rows.to(lower), weight.to(lower), None if bias is None else bias.to(lower)
    if hidden.device.type == "cpu":  # a larger vocabulary takes fewer tokens at a time: nothing is gained by more
        chunk_size = min(chunk_size, max(_LEAST_ROWS, _KEPT_BYTES // (4 * len(weight))))
    with torch.autocast(hidden.device.type, enabled=False):
        given = (rows, weight, bias, ids, temperature, chunk_size, tuple(measures))
        logp, *others = _HeadLogp.apply(*given)  # type: ignore[no-untyped-call]

    def whole(values: Tensor) -> Tensor:
        if mask is None:
            return values.reshape(targets.shape)
        return values.new_zeros(targets.shape).masked_scatter(mask, values)

    return whole(logp), {name: whole(values) for name, values in zip(measures, others, strict=True)}
