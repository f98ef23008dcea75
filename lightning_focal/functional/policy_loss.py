"""The clipped surrogates of PPO, GSPO and CISPO, what Clip-Cov leaves out of them, and what to watch about them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape
from lightning_focal.functional.aggregation import masked_aggregate
from lightning_focal.functional.choices import expect_choice

__all__ = ["LOSS_TYPES", "RATIO_LEVELS", "clipped_policy_loss", "importance_ratio", "policy_statistics", "token_covariance"]

LOSS_TYPES = ("clip", "cispo")
"""The names that ``loss_type`` may take."""
RATIO_LEVELS = ("token", "sequence")
"""The names that ``importance_sampling_level`` may take."""


def _log_ratio(logp: Tensor, old_logp: Tensor, mask: Tensor, level: str) -> Tensor:
    expect_choice("importance_sampling_level", level, RATIO_LEVELS)
    expect_shape("logp", logp, "N, T")
    shape = (logp.shape[0], logp.shape[1])
    expect_shape("old_logp", old_logp, "N, T", shape)
    expect_bool("mask", mask, "N, T", shape)
    # Padding may hold anything: masked before the exponential, so that neither the value nor its gradient overflows.
    difference = torch.where(mask, logp - old_logp, torch.zeros_like(logp))
    if level == "token":
        return difference
    return (difference.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)).expand_as(logp)


def importance_ratio(logp: Tensor, old_logp: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """Probability under the policy over that under the one that sampled, of each token or of its whole response.

    ``token``: ``r_t = exp(logp_t - old_logp_t)`` (PPO, arXiv:1707.06347). ``sequence``: ``s = exp(sum_t m_t (logp_t - old_logp_t) / sum_t
    m_t)``, the geometric mean of the tokens' ratios, the same at each of them (GSPO, arXiv:2507.18071 eq. 7).

    Args:
        logp: ``[N, T]`` log-probabilities in nats under the policy; its gradient is followed.
        old_logp: ``[N, T]`` those of the policy that sampled.
        mask: ``[N, T]`` bool, True = a token of the response.
        level: ``"token"`` or ``"sequence"``.

    Returns:
        ``[N, T]``; what stands where the mask is False is of no use.

    Raises:
        ValueError: on shapes that do not fit or an unknown level.
        TypeError: if ``mask`` is not boolean.

    >>> logp, old = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.2]]).log()
    >>> importance_ratio(logp, old, torch.tensor([[True, True]]), "sequence")
    tensor([[2., 2.]])
    """
    return _log_ratio(logp, old_logp, mask, level).exp()


def _per_token(advantages: Tensor, logp: Tensor) -> Tensor:
    if advantages.ndim == 1:
        expect_shape("advantages", advantages, "N", (logp.shape[0],))
        return advantages[:, None].detach()
    expect_shape("advantages", advantages, "N, T", (logp.shape[0], logp.shape[1]))
    return advantages.detach()


def _expect_clips(clip_low: float, clip_high: float, dual_clip: float | None, loss_type: str) -> None:
    expect_choice("loss_type", loss_type, LOSS_TYPES)
    if not 0 <= clip_low <= 1:
        raise ValueError(f"`clip_low` must be in [0, 1], got {clip_low}")
    if not clip_high >= 0:
        raise ValueError(f"`clip_high` must be >= 0, got {clip_high}")
    if dual_clip is not None and (loss_type == "cispo" or not dual_clip > 1):
        raise ValueError(f"`dual_clip` must be > 1 or None, and None with cispo, got {dual_clip}")


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
    loss_type: str = "clip",
    importance_sampling_level: str = "token",
) -> Tensor:
    """Clipped policy loss, to be minimised.

    With ``r`` of :func:`importance_ratio`, ``clip``: ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` (PPO, arXiv:1707.06347;
    separate limits: DAPO, arXiv:2503.14476). With ``dual_clip = c``, where ``A < 0`` the loss is at most ``-c A``
    (arXiv:1912.09729; 3.0 in the released Co-rewarding code). ``cispo``: ``-clip(r, 1 - clip_low, 1 + clip_high) A logp``, no gradient
    through the clipped ratio, so that every token keeps its own (CISPO, arXiv:2506.13585 eq. 4). A token whose advantage is 0 adds
    nothing, however far its ratio is off.

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
        loss_type: ``"clip"`` or ``"cispo"``.
        importance_sampling_level: ``"token"`` or ``"sequence"``, of the ratio.

    Returns:
        A scalar.

    Raises:
        ValueError: on shapes that do not fit, an unknown type or level, or limits out of range.
        TypeError: if ``mask`` is not boolean.

    >>> logp = torch.tensor([[0.5, 0.0]]).log()
    >>> clipped_policy_loss(logp, torch.tensor([[0.25, 1.0]]).log(), torch.tensor([1.0]), torch.tensor([[True, False]]))
    tensor(-1.2000)
    """
    _expect_clips(clip_low, clip_high, dual_clip, loss_type)
    advantage = _per_token(advantages, logp)
    log_ratio = _log_ratio(logp, old_logp.detach(), mask, importance_sampling_level)
    ratio = log_ratio.masked_fill(advantage == 0, 0).exp()  # 0 times a ratio that overflows would be NaN
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    cispo = loss_type == "cispo"
    loss = -clipped.detach() * advantage * logp if cispo else torch.maximum(-ratio * advantage, -clipped * advantage)
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
    loss_type: str = "clip",
    importance_sampling_level: str = "token",
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
        loss_type: the same.
        importance_sampling_level: the same.

    Returns:
        Scalar tensors, not synchronised with the host: ``tokens`` (count, the weight for averaging over micro-batches), the token
        means ``ratio_mean``, ``clip_fraction`` (tokens whose gradient a limit cut off, or whose ratio it bounded with ``cispo``),
        ``clip_low_fraction``, ``clip_high_fraction``, ``dual_clip_fraction`` and ``old_kl`` (k3, nats, of single tokens), and
        ``ratio_max``, ``ratio_min``.

    >>> logp, old = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.5]]).log()
    >>> stats = policy_statistics(logp, old, torch.tensor([1.0]), torch.tensor([[True, True]]))
    >>> stats["clip_fraction"], stats["ratio_max"]
    (tensor(0.5000), tensor(2.))
    """
    _expect_clips(clip_low, clip_high, dual_clip, loss_type)
    difference = _log_ratio(logp, old_logp, mask, "token")
    ratio = importance_ratio(logp, old_logp, mask, importance_sampling_level)
    advantage = _per_token(advantages, logp)
    low = (ratio < 1 - clip_low) & ((advantage < 0) | (loss_type == "cispo"))
    high = (ratio > 1 + clip_high) & ((advantage > 0) | (loss_type == "cispo"))
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


def token_covariance(logp: Tensor, advantages: Tensor, mask: Tensor, means: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """How much each token adds to the covariance of log-probability and advantage, by which entropy falls.

    ``(logp_t - mean logp) (A_t - mean A)``, means over all tokens of the optimiser step (arXiv:2505.22617 eq. 9). Clip-Cov leaves a few
    tokens on which it is large out of the loss.

    Args:
        logp: ``[N, T]`` log-probabilities in nats under the policy; a gradient is not followed.
        advantages: ``[N]`` or ``[N, T]``.
        mask: ``[N, T]`` bool, True = a token of the response.
        means: of ``logp`` and ``advantages`` over the tokens of the step, where these rows are not all of it.

    Returns:
        ``[N, T]``, 0 where the mask is False.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> token_covariance(torch.tensor([[-1.0, -3.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[True, True]]))
    tensor([[1., 1.]])
    """
    expect_shape("logp", logp, "N, T")
    advantage = _per_token(advantages, logp).expand_as(logp)
    mean_logp, mean_advantage = means or (masked_aggregate(logp.detach(), mask), masked_aggregate(advantage, mask))
    return torch.where(mask, (logp.detach() - mean_logp) * (advantage - mean_advantage), torch.zeros_like(logp))
