"""How an update is made (:class:`Update`), of what (:class:`Sequences`), and what is told of it (:class:`UpdateSums`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_focal.functional import AGGREGATIONS, IMPORTANCE_MODES, LOSS_TYPES, RATIO_LEVELS
from lightning_focal.functional.choices import expect_choice
from lightning_focal.models import Sizes, alike, dummy_forward, reshard, response_measures, why_not_packed
from lightning_focal.models.weights import eval_mode
from lightning_focal.types import Rollouts, Shaped

__all__ = ["Sequences", "Update", "UpdateSums", "micro_batches", "mini_batches", "sequence_measures"]

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
        loss_type: ``clip``, that of PPO and GRPO, or ``cispo``, whose ratio is clipped without cutting off a gradient, see
            :func:`~lightning_focal.functional.clipped_policy_loss`.
        importance_sampling_level: of the policy ratio: each ``token``'s, or the ``sequence``'s (GSPO), see
            :func:`~lightning_focal.functional.importance_ratio`.
        clip_cov_ratio: share of an optimiser step's tokens that are left out of the policy loss, drawn from those whose log-probability
            and advantage go together most (Clip-Cov, arXiv:2505.22617), see :func:`~lightning_focal.functional.token_covariance`; in
            [0, 1), 0.0002 is usual, 0 = off. It takes one more pass over the rows of each step.
        clip_cov_bounds: lowest and highest such covariance of a token that may be drawn.
        mask_truncated_completions: leave responses that the length limit cut off out of the loss (DAPO); they still count in the mean
            of their group.
        loss_aggregation: ``token_mean`` over the whole optimiser step, ``sequence_mean``, or ``fixed_length``.
        fixed_length: tokens, for ``fixed_length`` alone.
        kl_coef: weight of the KL term; 0 = no term, and no reference pass.
        kl_estimator: ``k1``, ``k2`` or ``k3``.
        kl_bias_correction: multiply each token's KL by the policy ratio: the gradient of ``k1`` and ``k3`` is then, in expectation, that
            of the divergence from the reference (DeepSeek-V3.2, arXiv:2512.02556), in a batch's first step, too, where the ratio is 1.
        entropy_coef: weight of an entropy bonus: this times the mean entropy of a token, in nats, is subtracted from the loss; the mean
            is over the tokens of the whole optimiser step, whatever ``loss_aggregation`` says. 0 = off.
        router_aux_coef: weight of the load-balancing loss of a mixture of experts, as its own forward computes it over the tokens of a
            micro-batch, prompts included; 0 = off. transformers calls it ``router_aux_loss_coef``, 0.001 to 0.02 are usual.
        importance_cap: multiply the loss of each token by trainer's over sampler's probability, at most this, see
            :func:`~lightning_focal.functional.importance_weights`; 2 is usual. Needs a generator that reports
            log-probabilities; None = off.
        importance_sampling_mode: what is done beyond the bounds, and to what: ``token_truncate``, ``token_mask``, ``sequence_truncate``
            or ``sequence_mask``.
        importance_floor: least such weight, in [0, 1].
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
    loss_type: Literal["clip", "cispo"] = "clip"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    clip_cov_ratio: float = 0.0
    clip_cov_bounds: tuple[float, float] = (1.0, 5.0)
    mask_truncated_completions: bool = False
    loss_aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    fixed_length: int | None = None
    kl_coef: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_bias_correction: bool = False
    entropy_coef: float = 0.0
    router_aux_coef: float = 0.0
    importance_cap: float | None = None
    importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "token_truncate"
    importance_floor: float = 0.0
    max_bad_steps: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "mini_batches", "micro_batch_size", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`update.{name}` must be >= 1, got {getattr(self, name)}")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise ValueError(f"`update.micro_batch_tokens` must be >= 1 or null, got {self.micro_batch_tokens}")
        for name in ("gradient_clip_val", "clip_high", "kl_coef", "entropy_coef", "router_aux_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`update.{name}` must be >= 0, got {getattr(self, name)}")
        expect_choice("update.loss_aggregation", self.loss_aggregation, AGGREGATIONS)
        expect_choice("update.kl_estimator", self.kl_estimator, ("k1", "k2", "k3"))
        expect_choice("update.loss_type", self.loss_type, LOSS_TYPES)
        expect_choice("update.importance_sampling_level", self.importance_sampling_level, RATIO_LEVELS)
        expect_choice("update.importance_sampling_mode", self.importance_sampling_mode, IMPORTANCE_MODES)
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"`update.clip_low` must be in [0, 1], got {self.clip_low}")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"`update.dual_clip` must be > 1 or null, got {self.dual_clip}")
        if self.dual_clip is not None and self.loss_type == "cispo":
            raise ValueError(
                f"`update.dual_clip` must be null with loss_type 'cispo', whose loss it does not bound, got {self.dual_clip}"
            )
        if self.importance_cap is not None and not self.importance_cap >= 1:
            raise ValueError(f"`update.importance_cap` must be >= 1 or null, got {self.importance_cap}")
        for name, least in (("importance_sampling_mode", "token_truncate"), ("importance_floor", 0.0)):
            if self.importance_cap is None and getattr(self, name) != least:
                raise ValueError(
                    f"`update.{name}` needs `update.importance_cap` (.inf = no upper bound), got {getattr(self, name)!r} alone"
                )
        if not 0 <= self.importance_floor <= 1:
            raise ValueError(f"`update.importance_floor` must be in [0, 1], got {self.importance_floor}")
        if not 0 <= self.clip_cov_ratio < 1:
            raise ValueError(f"`update.clip_cov_ratio` must be in [0, 1), got {self.clip_cov_ratio}")
        low, high = self.clip_cov_bounds
        if not low < high:
            raise ValueError(f"`update.clip_cov_bounds` must be (lowest, highest), got {tuple(self.clip_cov_bounds)}")
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
        number: ``[N]`` int64 on the host, place of each row in what it was taken from, or None.
        left_out: ``[N, T]`` bool, True = adds nothing to the policy loss, though it counts in its mean; or None.
        sampled_mask: ``[N, T]`` bool, True = a token that the policy drew, False = an environment's; None = all of ``response_mask``.
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
    number: Tensor | None = None
    left_out: Tensor | None = None
    sampled_mask: Tensor | None = None

    @classmethod
    def of(cls, rollouts: Rollouts, shaped: Shaped | None = None, mask_truncated: bool = False) -> Sequences:
        """Flatten groups; without ``shaped`` every advantage is 0. ``mask_truncated``: what was cut off takes no part."""
        g, device = rollouts.group_size, rollouts.response_ids.device
        views = torch.tensor(rollouts.prompts.views, device=device).repeat_interleave(g) if rollouts.prompts.views else None
        valid = rollouts.response_mask.any(-1) if shaped is None else shaped.valid.to(device)
        valid = valid & ~rollouts.truncated.to(device) if mask_truncated else valid
        prompt_mask, response_mask = rollouts.prompt_mask.repeat_interleave(g, 0), rollouts.response_mask.flatten(0, 1)
        return cls(
            prompt_ids=rollouts.prompt_ids.repeat_interleave(g, 0),
            prompt_mask=prompt_mask,
            response_ids=rollouts.response_ids.flatten(0, 1),
            response_mask=response_mask,
            advantages=torch.zeros(len(response_mask), device=device)
            if shaped is None
            else shaped.advantages.flatten().to(device),
            valid=valid.flatten(),
            sampling_logp=None if rollouts.logp is None else rollouts.logp.flatten(0, 1),
            views=views,
            sizes=Sizes.of(prompt_mask, response_mask, g),
            sampled_mask=None if rollouts.sampled_mask is None else rollouts.sampled_mask.flatten(0, 1),
        )

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompts, their mask, responses and their mask."""
        return self.prompt_ids, self.prompt_mask, self.response_ids, self.response_mask

    @property
    def loss_mask(self) -> Tensor:
        """``[N, T]`` bool, True = a token that the policy drew, of a valid rollout: loss, KL, entropy, ratios and means are of these."""
        return (self.response_mask if self.sampled_mask is None else self.sampled_mask) & self.valid[:, None]

    def rows(self, index: Tensor) -> Sequences:
        """Return some rows; an index on the host spares waiting for the device."""
        sizes = None if self.sizes is None else self.sizes.rows(index.tolist())
        number = None if self.number is None else self.number[index]
        index = index.to(self.prompt_ids.device)
        chosen: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("sizes", "number")}
        chosen = {name: None if value is None else value[index] for name, value in chosen.items()}
        return Sequences(**chosen, sizes=sizes, number=number)

    def chunks(self, size: int, tokens: int | None = None, *, shared: bool = False) -> Iterator[Tensor]:
        """Yield row numbers, ``size`` at a time or up to ``tokens`` tokens, on the host.

        Args:
            size: rows, without ``tokens``.
            tokens: a budget; a longer row goes alone.
            shared: rows of one prompt stay together and its tokens count once. Otherwise rows of like length go together, longest
                first, and padding counts.
        """
        sizes = self.sizes or Sizes.of(self.prompt_mask, self.response_mask)
        lengths = sizes.lengths
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


def micro_batches(
    model: nn.Module, rows: Sequences, update: Update, max_over_ranks: Callable[[int], int] = lambda count: count
) -> list[Sequences | None]:
    """Cut rows into micro-batches; None = nothing is left, but other processes, which have more, need the company."""
    shared = rows.sizes is not None and why_not_packed(model) is None
    lengths = torch.tensor((rows.sizes or Sizes.of(rows.prompt_mask, rows.response_mask)).lengths)
    chunks = [
        chunk[part]
        for chunk in rows.chunks(update.micro_batch_size, update.micro_batch_tokens, shared=shared)
        for part in alike(model, lengths[chunk].tolist())
    ]
    return [*map(rows.rows, chunks), *[None] * (max_over_ranks(len(chunks)) - len(chunks))]


def mini_batches(rows: Sequences, count: int, seed: int, places: tuple[Sequence[int], int] | None = None) -> Iterator[Sequences]:
    """Yield the rows of each optimiser step of a pass; permuted by a seed of their own where there is more than one.

    The permutation is one of the rows of all processes: each takes its own out of it, so that a step is made of the same
    rollouts however many processes there are.

    Each row's ``number`` is its place among those of all processes.

    Raises:
        ValueError: for more steps than rollouts.
    """
    mine, total = (range(len(rows)), len(rows)) if places is None else places
    rows = replace(rows, number=torch.tensor(mine, dtype=torch.int64))
    if count == 1:
        yield rows
        return
    if total < count:
        raise ValueError(f"`model.update.mini_batches` is {count}, but a batch has only {total} rollouts")
    at = torch.full((total,), -1)
    at[torch.tensor(mine, dtype=torch.int64)] = torch.arange(len(rows))
    for part in torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tensor_split(count):
        chosen = at[part]
        yield rows.rows(chosen[chosen >= 0])


def sequence_measures(
    model: nn.Module,
    rows: Sequences,
    temperature: float,
    update: Update,
    max_over_ranks: Callable[[int], int] = lambda count: count,
    measures: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Return what ``model`` thinks of the responses, token by token, without gradient and in eval mode.

    Returns:
        ``logp`` and each measure, ``[N, T]`` float32 in nats, 0 at padding.
    """
    rows = replace(rows, number=torch.arange(len(rows)))
    found = {name: torch.zeros_like(rows.response_ids, dtype=torch.float32) for name in ("logp", *measures)}
    with eval_mode(model, autocast=True):
        for part in micro_batches(model, rows, update, max_over_ranks):
            if part is None:
                dummy_forward(model)
                continue
            logp, measured = response_measures(model, *part.tokens, measures, temperature=temperature, sizes=part.sizes)
            for name, values in ({"logp": logp} | measured).items():
                found[name][part.number] = values
    reshard(model)
    return found


class UpdateSums:
    """What is logged of an update: sums over its tokens, kept on the device until the end, and the losses of its steps."""

    def __init__(self) -> None:
        self.tokens: Tensor | float = 0.0
        self.sums: dict[str, Tensor] = {}
        self.largest: dict[str, Tensor] = {}
        self.step: dict[str, Tensor] = {}
        self.steps: list[dict[str, Tensor]] = []

    def add(self, watched: dict[str, Tensor]) -> None:
        """Add what :func:`~lightning_focal.modules.loss.grpo_loss` says of a micro-batch."""
        tokens = watched["tokens"]
        self.tokens = self.tokens + tokens
        for name, value in watched.items():
            if name.startswith("loss/"):
                self.step[name] = self.step.get(name, 0.0) + value
            elif name.endswith("_max"):
                self.largest[name] = torch.maximum(self.largest.get(name, value), value)
            elif name != "tokens":
                self.sums[name] = self.sums.get(name, 0.0) + value * tokens

    def end_step(self, norm: Tensor, taken: bool) -> None:
        """End an optimiser step; one that was not taken leaves its losses out."""
        if taken:
            self.steps.append({**self.step, "policy/grad_norm": norm.detach()})
        self.step = {}

    def means(self, names: Sequence[str], device: torch.device, sum_over_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return means over the tokens of all processes, and over the steps of this one; NaN without any."""
        row = [self.tokens, *(self.sums.get(name, 0.0) for name in names)]
        tokens, *totals = sum_over_ranks(
            torch.stack([torch.as_tensor(x, dtype=torch.float32, device=device) for x in row])
        ).unbind()
        found = {f"policy/{name}": total / tokens for name, total in zip(names, totals, strict=True)}
        for name in ("loss/policy", "loss/total", "policy/grad_norm"):
            values = [step[name] for step in self.steps if name in step]
            found[name] = torch.stack(values).mean() if values else torch.full((), torch.nan, device=device)
        return found
