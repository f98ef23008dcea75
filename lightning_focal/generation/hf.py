"""Rollouts in process, with transformers alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_focal.generation.assemble import check_request, eos_ids, make_rollouts, response_texts
from lightning_focal.generation.base import Finished, Generator, Sampling
from lightning_focal.generation.decoding import Batch, Ended, decode, decode_with_generate, plan_batches, why_not_own
from lightning_focal.generation.graphed import graphs_steps
from lightning_focal.generation.sampling import draw_uniforms
from lightning_focal.models.cache import why_not_cached, why_not_plain
from lightning_focal.models.chat import prompt_opening
from lightning_focal.models.rows import context_length, length_limit, trial_tokens
from lightning_focal.models.weights import RolloutCopy, bare_model, compute_device, eval_mode, is_sharded
from lightning_focal.precision import expect_dtype, resolved_dtype, warn_if_slow
from lightning_focal.types import Prompts, Rollouts

__all__ = ["HFGenerator"]

_log = logging.getLogger(__name__)

_GRAPHS, _CACHE, _GENERATE, _UNCACHED = _LOOPS = (
    "cache loop in CUDA graphs", "cache loop", "generate()", "generate() without a cache"
)  # fmt: skip
"""How a model can be decoded with, in the order of preference."""

_LONG = 1_000
"""Tokens of a response that is worth a CUDA graph."""

_EQUAL, _UNEQUAL = (6, 6), (3, 14, 7)
"""Tokens of the prompts that a loop is tried on."""


@dataclass
class _Way:
    """How a model is decoded.

    Args:
        loop: one of ``_LOOPS``.
        why: no quicker one.
        apart: why prompts of one length go at a time, None = they are padded.
        compared: the kinds of real batches that were compared with the model's own forward: with padding, without.
    """

    loop: str
    why: str | None
    apart: str | None
    compared: set[bool] = field(default_factory=set)


class HFGenerator(Generator):
    """Decodes with the policy itself, or with a copy of it in another precision.

    Each prompt is computed once for its whole group. Tokens are drawn by inverting the cumulative distribution with random
    numbers that are fixed by the prompt's seed before decoding starts: neither the batch, nor the number of ranks, nor the global
    random state has an influence (beyond rounding: other batch sizes may round logits differently).

    Of the model's generation config only the eos ids are used; repetition penalties and the like would make the sampled
    distribution another one than the trained.

    The loop runs over transformers' cache, keys and values as well as recurrent states. Models that bring another run through their own
    ``generate()``. Every loop is tried on a few prompts, of equal and of unequal length, before it is used, and compared with the
    model's own forward, one sequence at a time without cache or padding; so is the first real batch of either kind. A loop that
    samples from another distribution is left for the next one, and prompts go one length at a time where padding changes what a
    model computes, both in words.

    A policy whose parameters are sharded over ranks is sampled from an unsharded copy, so that ranks may take different numbers
    of steps; :meth:`sync` gathers it.

    Args:
        batch_size: rollouts decoded at once, >= 1.
        dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``: sample from a copy of the policy in this precision, adapters
            merged. It costs the copy's memory; log-probabilities then are the copy's. ``"auto"``: bfloat16 where the device is
            quick at it, else float32 (:func:`~lightning_focal.precision.resolved_dtype`). None: sample from the policy as it is.
            Autocast is off while decoding, so its precision is the weights'.

    Raises:
        ValueError: on a value out of range.
    """

    tells_finished: ClassVar[bool] = True

    def __init__(self, batch_size: int = 64, dtype: str | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be >= 1, got {batch_size}")
        expect_dtype("dtype", dtype)
        self.batch_size = batch_size
        self.dtype = dtype
        self.version = 0
        self._copy: RolloutCopy | None = None
        self._copied: nn.Module | None = None
        self._ways: WeakKeyDictionary[nn.Module, _Way] = WeakKeyDictionary()
        self._left: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()

    def describe(self, policy: nn.Module) -> str:
        """See :meth:`Generator.describe`."""
        with torch.inference_mode(False):
            model = self._model(policy)
            with eval_mode(model):
                way = self._way(model, bare_model(model))
        words = f"{way.loop} on prompts of one length at a time" if way.apart else way.loop
        if way.loop == _CACHE and compute_device(model).type == "cuda":
            words += " without CUDA graphs"
        reasons = "; ".join(reason for reason in (way.why, way.apart) if reason)
        words += f" ({reasons})" if reasons else ""
        if self._copy is not None:
            return f"{words}, {self._copy_dtype(policy) or 'unsharded'} copy"
        return f"{words}, {str(next(policy.parameters()).dtype).removeprefix('torch.')}"

    def _model(self, policy: nn.Module) -> Any:
        """What is sampled from: the policy, or its copy, brought up to date if it was another's."""
        if self._needs_copy(policy) and self._copied is not policy:
            self.sync(policy, self.version)
        return policy if self._copy is None else self._copy.model

    def sync(self, policy: nn.Module, version: int) -> None:
        """Remember ``version`` and bring the copy up to date, if there is one; a collective when the policy is sharded."""
        self.version = version
        if not self._needs_copy(policy):
            self._copy = self._copied = None
        elif self._copy is None or not self._copy.fits(policy):
            self._copy, self._copied = None, policy  # frees the old one first
            dtype = self._copy_dtype(policy)
            warn_if_slow("generator.dtype", str(self.dtype), dtype or "float32", compute_device(policy))
            self._copy = RolloutCopy(policy, None if dtype is None else getattr(torch, dtype))
        else:  # policy and teacher take turns in one copy
            self._copied = policy
            self._copy.refresh(policy)

    def _copy_dtype(self, policy: nn.Module) -> str | None:
        return resolved_dtype(self.dtype, compute_device(policy))

    def _needs_copy(self, policy: nn.Module) -> bool:
        if is_sharded(policy):
            return True
        dtype = self._copy_dtype(policy)
        if dtype is None:
            return False
        wanted = getattr(torch, dtype)
        return hasattr(policy, "peft_config") or any(p.dtype != wanted for p in policy.parameters() if p.is_floating_point())

    def generate(
        self,
        policy: nn.Module,
        tokenizer: Any,
        prompts: Prompts,
        *,
        group_size: int,
        seeds: Sequence[int],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> Rollouts:
        """See :meth:`Generator.generate`.

        ``logp`` is that of ``softmax(logits / temperature)`` before top-k and top-p (temperature 1 when greedy).

        Raises:
            ValueError: on prompts without tokens, too few seeds, or a prompt too long for the model's context.
            RuntimeError: for a model that no way decodes as its own forward computes.
        """
        check_request(prompts, group_size, seeds)
        model = self._model(policy)
        bare = bare_model(model)
        _check_context(bare, prompts, sampling)
        eos = eos_ids(bare, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
        draws = draw_uniforms(seeds, group_size, sampling.max_new_tokens)
        telling = None if finished is None else _telling(finished, tokenizer, prompts, eos)
        with eval_mode(model):
            drawn = None
            while drawn is None:
                drawn = self._decoded(model, bare, prompts, draws, sampling, eos, pad, telling)
        return make_rollouts(prompts, tokenizer, drawn[0], eos=eos, logp=drawn[1], version=self.version)

    def _decoded(
        self,
        model: Any,
        bare: Any,
        prompts: Prompts,
        draws: Tensor,
        sampling: Sampling,
        eos: frozenset[int],
        pad: int,
        telling: Callable[[Batch], Ended] | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Tokens and log-probabilities ``[P, G, T]``; None where the model's way was left for the next."""
        way, limit = self._way(model, bare), length_limit(bare)
        device = next(model.parameters()).device
        tokens = torch.full(draws.shape, pad, device=device)
        logp = torch.zeros(draws.shape, device=device)

        def kind(length: int) -> int:
            return length if way.apart else int(limit is not None and length > limit[1])

        for batch in plan_batches([len(row) for row in prompts.tokens], draws.shape[1], self.batch_size, kind):
            chosen = torch.tensor(batch.prompts)
            part, rows = slice(batch.start, batch.stop), [prompts.tokens[i] for i in batch.prompts]
            padded = len({len(row) for row in rows}) > 1
            ended = None if telling is None else telling(batch)
            early = {"ended": ended} if padded in way.compared and way.loop in (_GRAPHS, _CACHE) else {}
            found = _run(way.loop, model, rows, draws[chosen, part], sampling, eos=eos, pad=pad, **early)
            if padded not in way.compared:
                differs = why_not_own(model, rows, *found, sampling, eos=eos)
                if differs is not None:
                    self._leave(bare, way, padded, differs)
                    return None
                way.compared.add(padded)
            if ended is not None and not early:
                written = found[0].flatten(0, 1).tolist()
                ended(range(len(written)), written)
            tokens[chosen.to(device), part], logp[chosen.to(device), part] = found
        return tokens, logp

    def _way(self, model: Any, bare: Any) -> _Way:
        """How a model is decoded: the first loop that samples from its own distribution.

        Raises:
            RuntimeError: when none does.
        """
        if bare in self._ways:
            return self._ways[bare]
        why, gpu = None, compute_device(model).type == "cuda"
        loops = _LOOPS if gpu else _LOOPS[1:]
        for loop in loops:
            reason = self._left.get(bare, {}).get(loop) or _why_not(loop, bare)
            if reason is None:
                tokens = 16 if gpu else 8
                reason, apart = _misfit(loop, model, bare, _EQUAL, tokens), None
                if reason is None and (apart := _misfit(loop, model, bare, _UNEQUAL, tokens)) is not None:
                    apart = f"padded, {apart}"
                if loop == _GRAPHS:  # capturing may have failed
                    reason = reason or apart or _why_not(loop, bare)
                if reason is None:
                    self._ways[bare] = _Way(loop, why, apart)
                    if apart:
                        _log.warning("%s is decoded on prompts of one length at a time: %s", type(bare).__name__, apart)
                    return self._ways[bare]
                _log.warning("%s is not decoded by %s: %s", type(bare).__name__, loop, reason)
            why = reason
        raise RuntimeError(f"{type(bare).__name__} cannot be sampled from here, neither by {' nor by '.join(loops)}: {why}")

    def _leave(self, bare: Any, way: _Way, padded: bool, differs: str) -> None:
        """Go on without padding, or by the next loop."""
        if padded and way.loop != _GRAPHS:
            way.apart = f"padded, {differs}"
        else:
            self._left.setdefault(bare, {})[way.loop] = differs
            del self._ways[bare]
        what = "on padded prompts" if padded else "any more"
        _log.warning("%s is not decoded by %s %s: %s", type(bare).__name__, way.loop, what, differs)


def _run(loop: str, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    if loop in (_GENERATE, _UNCACHED):
        return decode_with_generate(*arguments, **named, cached=loop == _GENERATE)
    return decode(*arguments, **named, graphs=loop == _GRAPHS)


def _telling(finished: Finished, tokenizer: Any, prompts: Prompts, eos: frozenset[int]) -> Callable[[Batch], Ended]:
    """What tells of a batch's responses: numbers in the batch become places among the rollouts, tokens become texts."""

    def of(batch: Batch) -> Ended:
        def ended(numbers: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
            for number, row in zip(numbers, rows, strict=True):
                place, own = divmod(number, batch.stop - batch.start)
                prompt = batch.prompts[place]
                (text,) = response_texts(tokenizer, prompt_opening(tokenizer, prompts.tokens[prompt]), [row], eos)
                finished(prompt, batch.start + own, text)

        return ended

    return of


def _why_not(loop: str, bare: Any) -> str | None:
    """What is known of a loop without running the model."""
    if loop in (_GENERATE, _UNCACHED):
        return None
    if loop == _GRAPHS and not graphs_steps(bare, _LONG):
        return why_not_plain(bare) or "its attention cannot be replaced"
    return why_not_cached(bare)


def _misfit(loop: str, model: Any, bare: Any, lengths: Sequence[int], tokens: int) -> str | None:
    """Try a loop on prompts of some lengths; the reason why it will not do, or None."""
    rows, sampling = trial_tokens(bare, lengths, tokens), Sampling(max_new_tokens=tokens, min_new_tokens=tokens)
    draws = draw_uniforms(range(len(rows)), 2, tokens)
    try:
        found = _run(loop, model, rows, draws, sampling, eos={0}, pad=0)
        return why_not_own(model, rows, *found, sampling, eos={0})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the code of a model raises
        return f"{type(error).__name__}: {[*str(error).splitlines(), ''][0]}"


def _check_context(model: Any, prompts: Prompts, sampling: Sampling) -> None:
    context = context_length(model)
    kind, limit = length_limit(model) or ("", 0)
    for name, row in zip(prompts.ids, prompts.tokens, strict=True):
        longest = len(row) + sampling.max_new_tokens
        if context is not None and longest > context:
            raise ValueError(
                f"`prompts`: prompt {name!r} has {len(row)} tokens; with `max_new_tokens` = {sampling.max_new_tokens} that "
                f"exceeds the policy's context of {context}"
            )
        if kind == "longrope" and len(row) <= limit < longest:
            raise ValueError(
                f"`prompts`: prompt {name!r} has {len(row)} tokens; with `max_new_tokens` = {sampling.max_new_tokens} a response may "
                f"pass {limit} tokens, where the policy's positions change (longrope) and its first tokens would be learnt at others "
                f"than they were sampled at: at most {limit - len(row)} new tokens, or prompts of more than {limit}"
            )
