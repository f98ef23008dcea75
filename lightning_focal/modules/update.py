"""The inner loop: from rollouts and advantages to optimiser steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_focal.functional import (
    AGGREGATIONS,
    clipped_policy_loss,
    kl_divergence,
    loss_normaliser,
    masked_aggregate,
    policy_statistics,
    sampling_gap,
    truncated_importance_weights,
)
from lightning_focal.functional.choices import expect_choice
from lightning_focal.models import (
    Sizes,
    expect_liger,
    idle_pass,
    packed_attention,
    put_away,
    response_logp,
    response_measures,
    why_not_packed,
)
from lightning_focal.types import Rollouts, Shaped

__all__ = ["Sequences", "Update", "sequence_logp"]

VIEWS = 2
"""An original and its rephrasing."""


@dataclass(frozen=True)
class Update:
    """How a batch of rollouts becomes optimiser steps.

    Args:
        epochs: passes over the batch.
        mini_batches: optimiser steps in a pass.
        micro_batch_size: sequences in one forward and backward; changes memory and speed, never the result.
        micro_batch_tokens: tokens in one forward and backward, in place of a number of sequences; a longer sequence goes alone. A
            prompt counts once for all its responses where the model lets them share it. None = as ``micro_batch_size`` says.
        gradient_clip_val: largest global gradient norm; 0 = no clipping.
        clip_low: lower clip of the policy ratio (PPO).
        clip_high: upper clip of the policy ratio.
        dual_clip: bound on the loss of a negative advantage, > 1; None = off.
        loss_aggregation: ``token_mean`` over the whole optimiser step, ``sequence_mean``, or ``fixed_length``.
        fixed_length: tokens, for ``fixed_length`` alone.
        kl_coef: weight of the KL term; 0 = no term, and no reference pass.
        kl_estimator: ``k1``, ``k2`` or ``k3``.
        kl_bias_correction: multiply each token's KL by the policy ratio: the gradient of ``k1`` and ``k3`` is then, in expectation, that
            of the divergence from the reference (DeepSeek-V3.2, arXiv:2512.02556), in a batch's first step, too, where the ratio is 1.
        fused_logp: ``liger``: log-probabilities of policy and reference by liger-kernel in place of our own output layer in chunks; the
            losses stay as they are, the entropy of the policy is not measured. None = our own.
        importance_cap: multiply the loss of each token by trainer's over sampler's probability, at most this, see
            :func:`~lightning_focal.functional.truncated_importance_weights`; 2 is usual. Needs a generator that reports
            log-probabilities; None = off.
        max_bad_steps: optimiser steps in a row that may be skipped over a loss or gradient that is not finite before the run stops.

    Raises:
        ValueError: for a value out of range.
    """

    epochs: int = 1
    mini_batches: int = 1
    micro_batch_size: int = 8
    micro_batch_tokens: int | None = None
    gradient_clip_val: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    loss_aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    fixed_length: int | None = None
    kl_coef: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_bias_correction: bool = False
    fused_logp: Literal["liger"] | None = None
    importance_cap: float | None = None
    max_bad_steps: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "mini_batches", "micro_batch_size", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`update.{name}` must be >= 1, got {getattr(self, name)}")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise ValueError(f"`update.micro_batch_tokens` must be >= 1 or null, got {self.micro_batch_tokens}")
        for name in ("gradient_clip_val", "kl_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`update.{name}` must be >= 0, got {getattr(self, name)}")
        expect_choice("update.loss_aggregation", self.loss_aggregation, AGGREGATIONS)
        expect_choice("update.kl_estimator", self.kl_estimator, ("k1", "k2", "k3"))
        expect_choice("update.fused_logp", self.fused_logp, ("liger", None))
        if self.fused_logp is not None:
            expect_liger("update.fused_logp")
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"`update.clip_low` must be in [0, 1], got {self.clip_low}")
        if not self.clip_high >= 0:
            raise ValueError(f"`update.clip_high` must be >= 0, got {self.clip_high}")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"`update.dual_clip` must be > 1 or null, got {self.dual_clip}")
        if self.importance_cap is not None and not self.importance_cap >= 1:
            raise ValueError(f"`update.importance_cap` must be >= 1 or null, got {self.importance_cap}")
        if self.loss_aggregation == "fixed_length" and not self.fixed_length:
            raise ValueError("`update.fixed_length` must name a number of tokens with loss_aggregation 'fixed_length'")

    @property
    def steps(self) -> int:
        """Optimiser steps in a rollout batch."""
        return self.epochs * self.mini_batches


@dataclass(frozen=True)
class Sequences:
    """Rollouts laid out one sequence a row: ``N = P * G``.

    Args:
        prompt_ids: ``[N, L]`` int64, left-padded.
        prompt_mask: ``[N, L]`` bool.
        response_ids: ``[N, T]`` int64, right-padded.
        response_mask: ``[N, T]`` bool.
        advantages: ``[N]``.
        valid: ``[N]`` bool, False = takes no part in the loss.
        old_logp: ``[N, T]`` of the policy that sampled, or None = the detached new ones.
        sampling_logp: ``[N, T]`` the same as the generator computed them, or None = not known.
        ref_logp: ``[N, T]`` of the reference, or None.
        views: ``[N]`` int64, which view of its question a row answers; the loss is the sum of each view's own.
        sizes: what the host knows of the rows; None = no two rows share a prompt.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    advantages: Tensor
    valid: Tensor
    old_logp: Tensor | None = None
    sampling_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    views: Tensor | None = None
    sizes: Sizes | None = None

    @classmethod
    def of(cls, rollouts: Rollouts, shaped: Shaped) -> Sequences:
        """Flatten groups."""
        g, device = rollouts.group_size, rollouts.response_ids.device
        views = torch.tensor(rollouts.prompts.views, device=device).repeat_interleave(g) if rollouts.prompts.views else None
        prompt_mask, response_mask = rollouts.prompt_mask.repeat_interleave(g, 0), rollouts.response_mask.flatten(0, 1)
        return cls(
            prompt_ids=rollouts.prompt_ids.repeat_interleave(g, 0),
            prompt_mask=prompt_mask,
            response_ids=rollouts.response_ids.flatten(0, 1),
            response_mask=response_mask,
            advantages=shaped.advantages.flatten().to(device),
            valid=shaped.valid.flatten().to(device),
            sampling_logp=None if rollouts.logp is None else rollouts.logp.flatten(0, 1),
            views=views,
            sizes=Sizes.of(prompt_mask, response_mask, g),
        )

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def loss_mask(self) -> Tensor:
        """``[N, T]`` bool, True = a response token of a valid rollout."""
        return self.response_mask & self.valid[:, None]

    def rows(self, index: Tensor) -> Sequences:
        """Return some rows; an index on the host spares waiting for the device."""
        sizes = None if self.sizes is None else self.sizes.rows(index.tolist())
        index = index.to(self.prompt_ids.device)
        picked: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sizes"}
        chosen: dict[str, Any] = {name: None if value is None else value[index] for name, value in picked.items()}
        return Sequences(**chosen, sizes=sizes)

    def chunks(self, size: int, tokens: int | None = None, *, shared: bool = False) -> Iterator[Tensor]:
        """Yield row numbers, ``size`` at a time or up to ``tokens`` tokens, on the host.

        Args:
            size: rows, without ``tokens``.
            tokens: a budget; a longer row goes alone.
            shared: rows of one prompt stay together and its tokens count once. Otherwise rows of like length go together, longest
                first, and padding counts.
        """
        sizes = self.sizes or Sizes.of(self.prompt_mask, self.response_mask)
        lengths = [p + r for p, r in zip(sizes.prompt_lengths, sizes.response_lengths, strict=True)]
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        if not order:
            return
        if shared:
            longest: dict[int, int] = {}
            for rank, row in enumerate(order):
                longest.setdefault(sizes.prompts[row], rank)
            order.sort(key=lambda row: longest[sizes.prompts[row]])
        if tokens is None:
            yield from torch.split(torch.tensor(order), size)
            return
        chunk: list[int] = []
        for row in order:
            whole = sizes.rows([*chunk, row])
            if chunk and (whole.packed_tokens() if shared else whole.padded_tokens()) > tokens:
                yield torch.tensor(chunk)
                chunk = []
            chunk.append(row)
        yield torch.tensor(chunk)


def _alone(count: int) -> int:
    """The largest count over processes, where there is one."""
    return count


def _micro_batches(
    model: nn.Module, sequences: Sequences, size: int, tokens: int | None, most: Callable[[int], int]
) -> list[Tensor | None]:
    """Rows of each micro-batch; None = an idle pass, until every process has made as many."""
    shared = sequences.sizes is not None and why_not_packed(model) is None
    chunks: list[Tensor | None] = list(sequences.chunks(size, tokens, shared=shared))
    return chunks + [None] * (most(len(chunks)) - len(chunks))


@torch.no_grad()
def sequence_logp(
    model: nn.Module,
    sequences: Sequences,
    temperature: float,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    most: Callable[[int], int] = _alone,
    fused: Literal["liger"] | None = None,
) -> Tensor:
    """Return log-probabilities ``[N, T]`` of the response tokens under ``model``, without gradient, in eval mode.

    Micro-batches and ``fused`` are those of :class:`Update`; ``most`` returns the largest of a number over processes.
    """
    training = model.training
    model.eval()
    try:
        result = torch.zeros_like(sequences.response_ids, dtype=torch.float32)
        for index in _micro_batches(model, sequences, micro_batch_size, micro_batch_tokens, most):
            if index is None:
                idle_pass(model)
                continue
            part = sequences.rows(index)
            tokens_of = (part.prompt_ids, part.prompt_mask, part.response_ids, part.response_mask)
            found = response_logp(model, *tokens_of, temperature=temperature, sizes=part.sizes, fused=fused)
            result[index.to(result.device)] = found
    finally:
        put_away(model)
        model.train(training)
    return result


@dataclass
class UpdateSums:
    """Sums over the tokens of an update, kept on the device until the end; largest values beside them."""

    tokens: Tensor | float = 0.0
    sums: dict[str, Tensor] | None = None
    largest: dict[str, Tensor] = field(default_factory=dict)

    def add(self, tokens: Tensor, means: dict[str, Tensor], largest: dict[str, Tensor] | None = None) -> None:
        """Add token means, weighted by their number of tokens, and take over what is larger than before."""
        self.tokens = self.tokens + tokens
        old = self.sums or {}
        self.sums = {key: old.get(key, 0.0) + value.detach() * tokens for key, value in means.items()}
        for key, value in (largest or {}).items():
            self.largest[key] = torch.maximum(self.largest[key], value) if key in self.largest else value

    def means(
        self,
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        all_reduce_sum: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> dict[str, Tensor]:
        """Return the means by name, over the tokens of all processes; NaN without any.

        Args:
            names: the same on every process; those there are by default.
            device: of the result.
            all_reduce_sum: over processes.
        """
        sums = self.sums or {}
        names = list(sums) if names is None else names
        found = [self.tokens, *(sums.get(name, 0.0) for name in names)]
        row = [torch.as_tensor(value, dtype=torch.float32, device=device) for value in found]
        tokens, *totals = all_reduce_sum(torch.stack(row)).unbind()
        return {name: total / tokens for name, total in zip(names, totals, strict=True)}


def accumulate_gradients(
    policy: nn.Module,
    mini: Sequences,
    update: Update,
    temperature: float,
    normaliser: Tensor,
    backward: Callable[[Tensor], None],
    sums: UpdateSums,
    hold: Callable[[], AbstractContextManager[None]] = nullcontext,
    most: Callable[[int], int] = _alone,
) -> dict[str, Tensor]:
    """Run forward and backward over a mini-batch, micro-batch by micro-batch; return its losses.

    Args:
        policy: model to train; gradients are added to its parameters.
        mini: the rows of one optimiser step.
        update: clips, aggregation, KL.
        temperature: the rollouts were sampled at.
        normaliser: of the whole step, see :func:`step_normaliser`.
        backward: called with each micro-batch's loss.
        sums: what to watch is added here.
        hold: around every backward but the last: gradients need not be exchanged yet.
        most: the largest of a number over processes; every process makes as many passes.

    Returns:
        The scalar losses of the step, detached: ``policy``, and ``total`` with the KL term.
    """
    nothing = torch.zeros((), device=mini.advantages.device)
    losses = {"policy": nothing, "total": nothing}
    chunks = _micro_batches(policy, mini, update.micro_batch_size, update.micro_batch_tokens, most)
    for number, index in enumerate(chunks, 1):
        held = nullcontext() if number == len(chunks) else hold()
        if index is None:
            with held:
                backward(idle_pass(policy))
            continue
        part = mini.rows(index)
        packs = part.sizes is not None and part.sizes.pays(part.prompt_ids.device)
        # Over the backward pass, too: checkpointed layers run again in it.
        with held, packed_attention(policy) if packs else nullcontext():
            logp, measured = response_measures(
                policy,
                *(part.prompt_ids, part.prompt_mask, part.response_ids, part.response_mask),
                () if update.fused_logp else ("entropy",),
                temperature=temperature,
                sizes=part.sizes,
                fused=update.fused_logp,
            )
            policy_loss, loss, watched = _micro_loss(part, logp, update, normaliser)
            backward(loss)
        losses["policy"] = losses["policy"] + policy_loss.detach()
        losses["total"] = losses["total"] + loss.detach()
        watched |= {name: masked_aggregate(value, part.loss_mask) for name, value in measured.items()}
        largest = {name: watched.pop(name) for name in ("sampling_gap_max",) if name in watched}
        sums.add(watched.pop("tokens"), watched, largest)
    return losses


def _micro_loss(part: Sequences, logp: Tensor, update: Update, normaliser: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The policy loss, the loss with its KL term, and what to watch: token means, ``sampling_gap_max``, and ``tokens``."""
    mask = part.loss_mask
    old_logp = logp.detach() if part.old_logp is None else part.old_logp
    watched: dict[str, Tensor] = {}
    advantages = part.advantages
    if part.sampling_logp is not None:
        gap = sampling_gap(old_logp, part.sampling_logp, mask)
        watched |= {"sampling_gap": gap["mean"], "sampling_gap_max": gap["max"], "sampling_kl": gap["kl"]}
        if update.importance_cap is not None:
            weights = truncated_importance_weights(old_logp, part.sampling_logp, mask, update.importance_cap)
            advantages = advantages[:, None] * weights  # the loss of a token is proportional to its advantage
            watched["importance_weight"] = masked_aggregate(weights, mask)
    clips = (update.clip_low, update.clip_high, update.dual_clip)
    divisor = normaliser if part.views is None else normaliser[part.views]
    aggregation = (update.loss_aggregation, divisor, update.fixed_length)
    loss = policy_loss = clipped_policy_loss(logp, old_logp, advantages, mask, *clips, *aggregation)
    if part.ref_logp is not None:
        kl = kl_divergence(logp, part.ref_logp, update.kl_estimator)
        watched["kl"] = masked_aggregate(kl, mask).detach()
        if update.kl_bias_correction:
            kl = kl * torch.exp(logp - old_logp)
        loss = loss + update.kl_coef * masked_aggregate(kl, mask, *aggregation)
    statistics = policy_statistics(logp.detach(), old_logp, part.advantages, mask, *clips)
    return policy_loss, loss, watched | {key: statistics[key] for key in ("tokens", "ratio_mean", "clip_fraction", "old_kl")}


def step_normaliser(mini: Sequences, update: Update, all_reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the normaliser of an optimiser step: a scalar, or ``[2]``, one a view, for questions in two views.

    ``all_reduce`` averages over processes, as gradients are.
    """
    mask, kind = mini.loss_mask, (update.loss_aggregation, update.fixed_length)
    if mini.views is None:
        return all_reduce(loss_normaliser(mask, *kind))
    return all_reduce(torch.stack([loss_normaliser(mask & (mini.views == view)[:, None], *kind) for view in range(VIEWS)]))
