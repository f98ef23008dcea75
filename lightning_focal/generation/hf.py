"""Rollouts in process, with transformers alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_focal.generation.assemble import check_request, eos_ids, make_rollouts
from lightning_focal.generation.base import Generator, Sampling
from lightning_focal.generation.decoding import decode, decode_with_generate, gap_to_forward, plan_batches
from lightning_focal.generation.graphed import graphs_steps
from lightning_focal.generation.sampling import draw_uniforms
from lightning_focal.models.cache import why_not_cached, why_not_plain
from lightning_focal.models.weights import RolloutCopy, bare_model, compute_device, is_sharded
from lightning_focal.precision import expect_dtype, resolved_dtype, warn_if_slow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_focal.types import Prompts, Rollouts

__all__ = ["HFGenerator"]

_log = logging.getLogger(__name__)

_WAYS = ("cache loop", "generate()", "generate() on prompts of one length at a time")
"""How a model can be decoded with, in the order of preference; each way is compared with the model's own forward."""

_LARGEST_GAP = {torch.float64: 1e-3, torch.float32: 1e-3}
"""Nats a token, on average, by which a way may differ from the model's own forward; elsewhere as below."""

_LARGEST_ROUNDED_GAP = 0.1

_LONG = 1_000
"""Tokens of a response that is worth a CUDA graph."""


class HFGenerator(Generator):
    """Decodes with the policy itself, or with a copy of it in another precision.

    Each prompt is computed once for its whole group. Tokens are drawn by inverting the cumulative distribution with random
    numbers that are fixed by the prompt's seed before decoding starts: neither the batch, nor the number of ranks, nor the global
    random state has an influence (beyond rounding: other batch sizes may round logits differently).

    Of the model's generation config only the eos ids are used; repetition penalties and the like would make the sampled
    distribution another one than the trained.

    The loop runs over transformers' cache. Models with another state than keys and values (recurrent ones) run through their own
    ``generate()``. The first batch of a model, and its first with prompts of unequal length, are compared with the model's own
    forward, one sequence at a time without cache or padding. A way that samples from another distribution is left for the next
    one, in words.

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

    def __init__(self, batch_size: int = 64, dtype: str | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be >= 1, got {batch_size}")
        expect_dtype("dtype", dtype)
        self.batch_size = batch_size
        self.dtype = dtype
        self.version = 0
        self._copy: RolloutCopy | None = None
        self._copied: nn.Module | None = None
        self._ways: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._compared: WeakKeyDictionary[nn.Module, set[bool]] = WeakKeyDictionary()

    def describe(self, policy: nn.Module) -> str:
        """See :meth:`Generator.describe`."""
        bare = bare_model(policy)
        way, reason = self._way(bare)
        way = way if reason is None else f"{way} ({reason})"
        if reason is None and compute_device(policy).type == "cuda" and not is_sharded(policy):
            why = why_not_plain(bare) or "its attention cannot be replaced"
            way += " in CUDA graphs" if graphs_steps(bare, _LONG) else f" without CUDA graphs ({why})"
        if self._needs_copy(policy):
            return f"{way}, {self._copy_dtype(policy) or 'unsharded'} copy"
        return f"{way}, {str(next(policy.parameters()).dtype).removeprefix('torch.')}"

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
        tokenizer: PreTrainedTokenizerBase,
        prompts: Prompts,
        *,
        group_size: int,
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> Rollouts:
        """See :meth:`Generator.generate`.

        ``logp`` is that of ``softmax(logits / temperature)`` before top-k and top-p (temperature 1 when greedy).

        Raises:
            ValueError: on prompts without tokens, too few seeds, or a prompt too long for the model's context.
            RuntimeError: for a model that no way decodes as its own forward computes.
        """
        check_request(prompts, group_size, seeds)
        if self._needs_copy(policy) and self._copied is not policy:
            self.sync(policy, self.version)
        model: Any = self._copy.model if self._copy is not None else policy
        bare = bare_model(model)
        _check_context(bare, prompts, sampling)
        eos = eos_ids(bare, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
        draws = draw_uniforms(seeds, group_size, sampling.max_new_tokens)
        with _sampling_mode(model, next(model.parameters()).device):
            drawn = None
            while drawn is None:
                drawn = self._decoded(model, bare, prompts, draws, sampling, eos, pad)
        return make_rollouts(prompts, tokenizer, drawn[0], eos=eos, logp=drawn[1], version=self.version)

    def _decoded(
        self, model: Any, bare: Any, prompts: Prompts, draws: Tensor, sampling: Sampling, eos: frozenset[int], pad: int
    ) -> tuple[Tensor, Tensor] | None:
        """Tokens and log-probabilities ``[P, G, T]``; None where the model's way was left for the next."""
        way, _ = self._way(bare)
        loop = decode if way == _WAYS[0] else decode_with_generate
        device = next(model.parameters()).device
        tokens = torch.full(draws.shape, pad, device=device)
        logp = torch.zeros(draws.shape, device=device)
        lengths = [len(row) for row in prompts.tokens]
        for batch in plan_batches(lengths, draws.shape[1], self.batch_size, even=way == _WAYS[2]):
            chosen = torch.tensor(batch.prompts)
            part, rows = slice(batch.start, batch.stop), [prompts.tokens[i] for i in batch.prompts]
            found = loop(model, rows, draws[chosen, part], sampling, eos=eos, pad=pad)
            padded = len({len(row) for row in rows}) > 1
            if padded not in self._compared.setdefault(bare, set()):
                gap = gap_to_forward(model, rows, *found, sampling, eos=eos)
                if not gap <= _LARGEST_GAP.get(next(model.parameters()).dtype, _LARGEST_ROUNDED_GAP):
                    self._leave(bare, way, gap)
                    return None
                self._compared[bare].add(padded)
            tokens[chosen.to(device), part], logp[chosen.to(device), part] = found
        return tokens, logp

    def _way(self, bare: Any) -> tuple[str, str | None]:
        """How a model is decoded with, and why not in the quickest way."""
        if bare in self._ways:
            return self._ways[bare], "others differ from its own forward"
        reason = why_not_cached(bare)
        return _WAYS[0 if reason is None else 1], reason

    def _leave(self, bare: Any, way: str, gap: float) -> None:
        name, differs = type(bare).__name__, f"its log-probabilities there differ from its own forward by {gap:.2g} nats a token"
        following = _WAYS[_WAYS.index(way) + 1 :]
        if not following:
            raise RuntimeError(f"{name} cannot be sampled from here: {differs}, by {' and by '.join(_WAYS)}")
        _log.warning("%s is not decoded by %s: %s; it goes on by %s", name, way, differs, following[0])
        self._ways[bare], self._compared[bare] = following[0], set()


def _check_context(model: Any, prompts: Prompts, sampling: Sampling) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return
    for name, row in zip(prompts.ids, prompts.tokens, strict=True):
        if len(row) + sampling.max_new_tokens > context:
            raise ValueError(
                f"`prompts`: prompt {name!r} has {len(row)} tokens; with `max_new_tokens` = {sampling.max_new_tokens} that "
                f"exceeds the policy's context of {context}"
            )


@contextmanager
def _sampling_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode without gradients and autocast; every module's training flag is put back.

    Not ``inference_mode``: its tensors could not take part in a later backward.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True
