"""The loss of a micro-batch: the clipped policy loss, and the KL term where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_focal.functional import (
    clipped_policy_loss,
    kl_divergence,
    loss_normaliser,
    masked_aggregate,
    policy_statistics,
    sampling_gap,
    truncated_importance_weights,
)
from lightning_focal.modules.update import VIEWS, Sequences, Update

__all__ = ["grpo_loss", "step_normaliser"]


def grpo_loss(
    rows: Sequences,
    logp: Tensor,
    update: Update,
    normaliser: Tensor,
    measured: Mapping[str, Tensor] | None = None,
    share: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ``policy loss + kl_coef * KL + router_aux_coef * router's loss`` of a micro-batch, and what to watch about it.

    The policy loss is :func:`~lightning_focal.functional.clipped_policy_loss` (GRPO, arXiv:2402.03300), each token's multiplied by
    its truncated importance weight where ``update.importance_cap`` is set; the KL term is
    :func:`~lightning_focal.functional.kl_divergence` from the reference. Micro-batches of a step add up to the step's loss.

    Args:
        rows: ``N`` sequences.
        logp: ``[N, T]`` log-probabilities of their responses under the policy, in nats, with gradient.
        update: clips, aggregation, KL.
        normaliser: of the whole optimiser step, see :func:`step_normaliser`.
        measured: ``[N, T]`` each, without gradient: watched as means over tokens; and ``router_loss``, a scalar with one.
        share: of the optimiser step's rows, that the router's loss is weighed by.

    Returns:
        The loss, a scalar; and scalars on the device, without gradient: ``tokens``, token means (``ratio_mean``, ``clip_fraction``,
        ``old_kl``, ``kl``, ``sampling_gap``, ...), ``sampling_gap_max``, ``loss/policy`` and ``loss/total``.
    """
    mask = rows.loss_mask
    old_logp = logp.detach() if rows.old_logp is None else rows.old_logp
    measured = dict(measured or {})
    router_loss = measured.pop("router_loss", None)
    watched = {name: masked_aggregate(values, mask) for name, values in measured.items()}
    advantages = rows.advantages
    if rows.sampling_logp is not None:
        gap = sampling_gap(old_logp, rows.sampling_logp, mask)
        watched |= {"sampling_gap": gap["mean"], "sampling_gap_max": gap["max"], "sampling_kl": gap["kl"]}
        if update.importance_cap is not None:
            weights = truncated_importance_weights(old_logp, rows.sampling_logp, mask, update.importance_cap)
            advantages = advantages[:, None] * weights  # the loss of a token is proportional to its advantage
            watched["importance_weight"] = masked_aggregate(weights, mask)
    clips = (update.clip_low, update.clip_high, update.dual_clip)
    aggregation = (update.loss_aggregation, normaliser if rows.views is None else normaliser[rows.views], update.fixed_length)
    loss = policy_loss = clipped_policy_loss(logp, old_logp, advantages, mask, *clips, *aggregation)
    if rows.ref_logp is not None:
        kl = kl_divergence(logp, rows.ref_logp, update.kl_estimator, mask)
        watched["kl"] = masked_aggregate(kl, mask).detach()
        if update.kl_bias_correction:
            kl = kl * torch.where(mask, logp - old_logp, torch.zeros_like(logp)).exp()
        loss = loss + update.kl_coef * masked_aggregate(kl, mask, *aggregation)
    if router_loss is not None:
        watched["router_loss"] = router_loss.detach()
        loss = loss + update.router_aux_coef * share * router_loss
    statistics = policy_statistics(logp.detach(), old_logp, rows.advantages, mask, *clips)
    watched |= {name: statistics[name] for name in ("tokens", "ratio_mean", "clip_fraction", "old_kl")}
    return loss, watched | {"loss/policy": policy_loss.detach(), "loss/total": loss.detach()}


def step_normaliser(mini: Sequences, update: Update, mean_over_ranks: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Return what the losses of an optimiser step are divided by: a scalar, or ``[2]``, one a view, for questions in two views."""
    mask, kind = mini.loss_mask, (update.loss_aggregation, update.fixed_length)
    if mini.views is None:
        return mean_over_ranks(loss_normaliser(mask, *kind))
    return mean_over_ranks(torch.stack([loss_normaliser(mask & (mini.views == view)[:, None], *kind) for view in range(VIEWS)]))
