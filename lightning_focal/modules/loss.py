"""The loss of a micro-batch: the clipped policy loss, and the KL term, entropy bonus and router's loss where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightning_focal.functional import (
    clipped_policy_loss,
    importance_ratio,
    importance_weights,
    kl_divergence,
    loss_normaliser,
    masked_aggregate,
    policy_statistics,
    sampling_gap,
    token_covariance,
)
from lightning_focal.functional._inputs import wide_dtype
from lightning_focal.modules.processes import Processes
from lightning_focal.modules.update import VIEWS, Sequences, Update

__all__ = ["grpo_loss", "step_normaliser", "without_covariant"]


def grpo_loss(
    rows: Sequences,
    logp: Tensor,
    update: Update,
    normaliser: Tensor,
    measured: Mapping[str, Tensor] | None = None,
    share: float = 1.0,
    tokens: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a micro-batch's loss and what to watch about it.

    ``policy loss + kl_coef * KL - entropy_coef * entropy + router_aux_coef * router's loss``. The policy loss is
    :func:`~lightning_focal.functional.clipped_policy_loss` (GRPO, arXiv:2402.03300), each token's multiplied by its importance weight
    where ``update.importance_cap`` is set; the KL term is :func:`~lightning_focal.functional.kl_divergence` from the reference.
    Micro-batches of a step add up to the step's loss.

    Args:
        rows: ``N`` sequences.
        logp: ``[N, T]`` log-probabilities of their responses under the policy, in nats, with gradient.
        update: clips, aggregation, KL.
        normaliser: of the whole optimiser step, see :func:`step_normaliser`.
        measured: ``[N, T]`` each, watched as means over tokens, ``entropy`` with a gradient where there is a bonus; and
            ``router_loss``, a scalar with one.
        share: of the optimiser step's rows, that the router's loss is weighed by.
        tokens: of the whole optimiser step, that the bonus is divided by; None = of these rows.

    Returns:
        The loss, a scalar; and scalars on the device, without gradient: ``tokens``, token means (``ratio_mean``, ``clip_fraction``,
        ``old_kl``, ``kl``, ``sampling_gap``, ...), ``sampling_gap_max``, ``loss/policy`` and ``loss/total``.
    """
    mask = rows.loss_mask
    old_logp = logp.detach() if rows.old_logp is None else rows.old_logp
    measured = dict(measured or {})
    router_loss = measured.pop("router_loss", None)
    watched = {name: masked_aggregate(values.detach(), mask) for name, values in measured.items()}
    advantages = rows.advantages
    if rows.left_out is not None:
        advantages = advantages[:, None].masked_fill(rows.left_out, 0)
        watched["clip_cov_fraction"] = masked_aggregate(rows.left_out.float(), mask)
    if rows.sampling_logp is not None:
        gap = sampling_gap(old_logp, rows.sampling_logp, mask)
        watched |= {"sampling_gap": gap["mean"], "sampling_gap_max": gap["max"], "sampling_kl": gap["kl"]}
        if update.importance_cap is not None:
            bounds = (update.importance_cap, update.importance_sampling_mode, update.importance_floor)
            weights = importance_weights(old_logp, rows.sampling_logp, mask, *bounds)
            # the loss of a token is proportional to its advantage
            advantages = weights * (advantages if advantages.ndim == 2 else advantages[:, None])
            watched["importance_weight"] = masked_aggregate(weights, mask)
            watched["importance_masked"] = masked_aggregate((weights == 0).float(), mask)
    clips = (update.clip_low, update.clip_high, update.dual_clip)
    kind = (update.loss_type, update.importance_sampling_level)
    aggregation = (update.loss_aggregation, normaliser if rows.views is None else normaliser[rows.views], update.fixed_length)
    loss = policy_loss = clipped_policy_loss(logp, old_logp, advantages, mask, *clips, *aggregation, *kind)
    if rows.ref_logp is not None:
        kl = kl_divergence(logp, rows.ref_logp, update.kl_estimator, mask)
        watched["kl"] = masked_aggregate(kl, mask).detach()
        if update.kl_bias_correction:
            kl = kl * importance_ratio(logp, old_logp, mask)
        loss = loss + update.kl_coef * masked_aggregate(kl, mask, *aggregation)
    if update.entropy_coef > 0 and measured:
        loss = loss - update.entropy_coef * masked_aggregate(measured["entropy"], mask, normaliser=tokens)
    if router_loss is not None:
        watched["router_loss"] = router_loss.detach()
        loss = loss + update.router_aux_coef * share * router_loss
    statistics = policy_statistics(logp.detach(), old_logp, rows.advantages, mask, *clips, *kind)
    watched |= {name: statistics[name] for name in ("tokens", "ratio_mean", "clip_fraction", "old_kl")}
    return loss, watched | {"loss/policy": policy_loss.detach(), "loss/total": loss.detach()}


def step_normaliser(mini: Sequences, update: Update, mean_over_ranks: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Return what the losses of an optimiser step are divided by: a scalar, or ``[2]``, one a view, for questions in two views."""
    mask, kind = mini.loss_mask, (update.loss_aggregation, update.fixed_length)
    if mini.views is None:
        return mean_over_ranks(loss_normaliser(mask, *kind))
    return mean_over_ranks(torch.stack([loss_normaliser(mask & (mini.views == view)[:, None], *kind) for view in range(VIEWS)]))


def without_covariant(mini: Sequences, logp: Tensor, update: Update, seed: int, processes: Processes) -> Sequences:
    """Leave a few tokens of an optimiser step out of its policy loss (Clip-Cov, arXiv:2505.22617 eq. 10 and 11).

    ``max(1, floor(clip_cov_ratio * tokens))`` are drawn at random, all processes together, from those whose
    :func:`~lightning_focal.functional.token_covariance` lies within ``clip_cov_bounds`` and whose gradient no clip cuts off, as in the
    released code. The draw is a function of the seed and of a row's place in the batch.

    Args:
        mini: the rows of the step that this process has, numbered.
        logp: ``[N, T]`` log-probabilities under the policy as it is now, in nats.
        update: share, bounds, clips.
        seed: of the step.
        processes: every one calls this.
    """
    mask, wide = mini.loss_mask, wide_dtype(logp)
    advantages = mini.advantages[:, None].expand_as(logp)
    parts = [torch.where(mask, values, 0).sum(dtype=wide) for values in (torch.ones_like(logp), logp, advantages)]
    tokens, logps, gains = processes.sum(torch.stack(parts)).unbind()
    covariance = token_covariance(logp, advantages, mask, ((logps / tokens).to(logp), (gains / tokens).to(logp)))
    ratio = importance_ratio(logp, logp if mini.old_logp is None else mini.old_logp, mask, update.importance_sampling_level)
    cut = (ratio.clamp(1 - update.clip_low, 1 + update.clip_high) - ratio) * advantages
    low, high = update.clip_cov_bounds
    candidates = mask & (covariance > low) & (covariance < high) & (cut >= 0)
    generator, width = torch.Generator(), processes.max_over_ranks(logp.shape[1])
    numbers = range(len(mini)) if mini.number is None else mini.number.tolist()
    dice = [torch.rand(1, width, generator=generator.manual_seed(seed ^ number)) for number in numbers]
    drawn = torch.cat([torch.empty(0, width), *dice])[:, : logp.shape[1]].to(logp.device).masked_fill(~candidates, torch.inf)
    count = max(1, int(update.clip_cov_ratio * float(tokens)))
    least = torch.nn.functional.pad(drawn.flatten(), (0, count), value=torch.inf).topk(count, largest=False).values
    return replace(mini, left_out=candidates & (drawn <= sorted(processes.gather(least.tolist()))[count - 1]))
