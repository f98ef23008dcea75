"""The clipped surrogate of PPO, and what to watch about it."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape
from lightning_focal.functional.aggregation import masked_aggregate

__all__ = ["clipped_policy_loss", "policy_statistics"]


def _log_ratio(logp: Tensor, old_logp: Tensor, mask: Tensor) -> Tensor:
    expect_shape("logp", logp, "N, T")
    shape = (logp.shape[0], logp.shape[1])
    expect_shape("old_logp", old_logp, "N, T", shape)
    expect_bool("mask", mask, "N, T", shape)
    # Padding may hold anything: masked before the exponential, so that neither the value nor its gradient overflows.
    return torch.where(mask, logp - old_logp, torch.zeros_like(logp))


def _per_token(advantages: Tensor, logp: Tensor) -> Tensor:
    if advantages.ndim == 1:
        expect_shape("advantages", advantages, "N", (logp.shape[0],))
        return advantages[:, None].detach()
    expect_shape("advantages", advantages, "N, T", (logp.shape[0], logp.shape[1]))
    return advantages.detach()


def _expect_clips(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    if not 0 <= clip_low <= 1:
        raise ValueError(f"`clip_low` must be in [0, 1], got {clip_low}")
    if not clip_high >= 0:
        raise ValueError(f"`clip_high` must be >= 0, got {clip_high}")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"`dual_clip` must be > 1 or None, got {dual_clip}")


def clipped_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    aggregation: str = "token_mean",
    normaliser: Tensor | float | None = None,
    fixed_length: int | None = None,
) -> Tensor:
    """Clipped policy loss, to be minimised.

    ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` with ``r = exp(logp - old_logp)`` (PPO, arXiv:1707.06347; separate
    limits: DAPO, arXiv:2503.14476). With ``dual_clip = c``, where ``A < 0`` the loss is at most ``-c A`` (arXiv:1912.09729;
    3.0 in the released Co-rewarding code).

    Args:
        logp: ``[N, T]`` log-probabilities in nats under the policy, with gradient.
        old_logp: ``[N, T]`` those of the policy that sampled; a gradient is not followed.
        advantages: ``[N]`` or ``[N, T]``; a gradient is not followed.
        mask: ``[N, T]`` bool, True = a token of the response.
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual_clip: > 1, or None for none.
        aggregation: ``"token_mean"``, ``"sequence_mean"`` or ``"fixed_length"``, see :func:`masked_aggregate`.
        normaliser: :func:`loss_normaliser` of the whole optimiser step, so that micro-batches add up exactly, a scalar or
            ``[N]``, see :func:`masked_aggregate`; None = of ``mask``.
        fixed_length: tokens, for ``"fixed_length"`` alone.

    Returns:
        A scalar.

    Raises:
        ValueError: on shapes that do not fit or limits out of range.
        TypeError: if ``mask`` is not boolean.

    >>> logp = torch.tensor([[0.5, 0.0]]).log()
    >>> clipped_policy_loss(logp, torch.tensor([[0.25, 1.0]]).log(), torch.tensor([1.0]), torch.tensor([[True, False]]))
    tensor(-1.2000)
    """
    _expect_clips(clip_low, clip_high, dual_clip)
    ratio = _log_ratio(logp, old_logp.detach(), mask).exp()
    advantage = _per_token(advantages, logp)
    loss = torch.maximum(-ratio * advantage, -ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -dual_clip * advantage), loss)
    return masked_aggregate(loss, mask, aggregation, normaliser, fixed_length)


@torch.no_grad()
def policy_statistics(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> dict[str, Tensor]:
    """How far an update has moved, over the tokens that count.

    Args:
        logp: ``[N, T]`` log-probabilities in nats under the policy.
        old_logp: ``[N, T]`` those of the policy that sampled.
        advantages: ``[N]`` or ``[N, T]``.
        mask: ``[N, T]`` bool, True = a token of the response.
        clip_low: as given to :func:`clipped_policy_loss`.
        clip_high: the same.
        dual_clip: the same.

    Returns:
        Scalar tensors, not synchronised with the host: ``tokens`` (count, the weight for averaging over micro-batches), the token
        means ``ratio_mean``, ``clip_fraction`` (tokens whose gradient a limit cut off), ``clip_low_fraction``,
        ``clip_high_fraction``, ``dual_clip_fraction`` and ``old_kl`` (k3, nats), and ``ratio_max``, ``ratio_min``.

    >>> logp, old = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.5]]).log()
    >>> stats = policy_statistics(logp, old, torch.tensor([1.0]), torch.tensor([[True, True]]))
    >>> stats["clip_fraction"], stats["ratio_max"]
    (tensor(0.5000), tensor(2.))
    """
    _expect_clips(clip_low, clip_high, dual_clip)
    difference = _log_ratio(logp, old_logp, mask)
    ratio = difference.exp()
    advantage = _per_token(advantages, logp)
    low = (ratio < 1 - clip_low) & (advantage < 0)
    high = (ratio > 1 + clip_high) & (advantage > 0)
    dual = (advantage < 0) & (ratio > (torch.inf if dual_clip is None else dual_clip))
    tokens = mask.sum()

    def mean(values: Tensor) -> Tensor:
        return torch.where(mask, values.to(ratio.dtype), torch.zeros_like(ratio)).sum() / tokens.clamp_min(1)

    return {
        "tokens": tokens,
        "ratio_mean": mean(ratio),
        "ratio_max": torch.where(mask, ratio, torch.zeros_like(ratio)).amax(),
        "ratio_min": torch.where(mask, ratio, torch.full_like(ratio, torch.inf)).amin(),
        "clip_fraction": mean(low | high | dual),
        "clip_low_fraction": mean(low),
        "clip_high_fraction": mean(high),
        "dual_clip_fraction": mean(dual),
        # ratio = new / old: the sampled tokens come from old, whose divergence from new is estimated.
        "old_kl": mean(torch.expm1(difference) - difference),
    }
