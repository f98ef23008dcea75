"""Rollouts in process, with transformers alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_focal.generation.assemble import check_request, eos_ids, make_rollouts
from lightning_focal.generation.base import Generator, Sampling
from lightning_focal.generation.compiled import compiled_pieces
from lightning_focal.generation.decoding import decode, decode_with_generate, plan_batches
from lightning_focal.generation.lean import LeanStep
from lightning_focal.generation.products import onednn_linears
from lightning_focal.generation.sampling import draw_uniforms
from lightning_focal.generation.shared import shares_prompts
from lightning_focal.generation.weights import RolloutCopy, bare_model, is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_focal.types import Prompts, Rollouts

__all__ = ["HFGenerator"]

_log = logging.getLogger(__name__)
_told: set[str] = set()


class HFGenerator(Generator):
    """Decodes with the policy itself, or with a copy of it in another precision.

    Each prompt is computed once for its whole group. Tokens are drawn by inverting the cumulative distribution with random
    numbers that are fixed by the prompt's seed before decoding starts: neither the batch, nor the number of ranks, nor the global
    random state has an influence (beyond rounding: other batch sizes may round logits differently).

    Of the model's generation config only the eos ids are used; repetition penalties and the like would make the sampled
    distribution another one than the trained.

    Models whose cache is not plain (sliding windows, recurrent states) run through their own ``generate()``; this is logged once.

    A policy whose parameters are sharded over ranks is sampled from an unsharded copy, so that ranks may take different numbers
    of steps; :meth:`sync` gathers it.

    Args:
        batch_size: rollouts decoded at once, >= 1.
        dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``: sample from a copy of the policy in this precision, adapters
            merged. It costs the copy's memory and is about twice as quick on recent CPUs; log-probabilities then are the copy's.
            None: sample from the policy as it is. Autocast is off while decoding, so its precision is the weights'.
        compile: decode with norms and feed-forward blocks of the decoder layers compiled by ``torch.compile``, which takes from ten
            seconds to a minute once. On a CPU this stands in place of decoding from packed weights, and is slower; on a GPU the
            kernels go into the captured graph. Nothing of it stays on the policy; what does not compile, or the lack of a
            compiler, is said once. :func:`~lightning_focal.generation.compiled.compiled_pieces`.

    Raises:
        ValueError: on a value out of range.
    """

    def __init__(self, batch_size: int = 64, dtype: str | None = None, compile: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be >= 1, got {batch_size}")
        if dtype not in (None, "bfloat16", "float16", "float32"):
            raise ValueError(f"`dtype` must be None, 'bfloat16', 'float16' or 'float32', got {dtype!r}")
        self.batch_size = batch_size
        self.dtype = dtype
        self.compile = compile
        self.version = 0
        self._copy: RolloutCopy | None = None
        self._copied: nn.Module | None = None

    def sync(self, policy: nn.Module, version: int) -> None:
        """Remember ``version`` and bring the copy up to date, if there is one; a collective when the policy is sharded."""
        self.version = version
        if not self._needs_copy(policy):
            self._copy = self._copied = None
        elif self._copy is None or not self._copy.fits(policy):
            self._copy, self._copied = None, policy  # frees the old one first
            self._copy = RolloutCopy(policy, None if self.dtype is None else getattr(torch, self.dtype))
        else:  # policy and teacher take turns in one copy
            self._copied = policy
            self._copy.refresh(policy)

    def _needs_copy(self, policy: nn.Module) -> bool:
        if is_sharded(policy):
            return True
        if self.dtype is None:
            return False
        wanted = getattr(torch, self.dtype)
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
        """
        check_request(prompts, group_size, seeds)
        if self._needs_copy(policy) and self._copied is not policy:
            self.sync(policy, self.version)
        model: Any = self._copy.model if self._copy is not None else policy
        bare = bare_model(model)
        _check_context(bare, prompts, sampling)
        eos = eos_ids(bare, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
        loop = _loop_for(bare)
        if loop is decode and shares_prompts(bare) and not self.compile:
            loop = functools.partial(decode, lean=LeanStep.of(model))

        draws = draw_uniforms(seeds, group_size, sampling.max_new_tokens)
        device = next(model.parameters()).device
        tokens = torch.full(draws.shape, pad, device=device)
        logp = torch.zeros(draws.shape, device=device)
        quicker = compiled_pieces(model) if self.compile else nullcontext()
        with _sampling_mode(model, device), quicker as pieces, onednn_linears(model, but=pieces):
            for batch in plan_batches([len(row) for row in prompts.tokens], group_size, self.batch_size):
                chosen = torch.tensor(batch.prompts)
                part, rows = slice(batch.start, batch.stop), [prompts.tokens[i] for i in batch.prompts]
                drawn = loop(model, rows, draws[chosen, part], sampling, eos=eos, pad=pad)
                tokens[chosen.to(device), part], logp[chosen.to(device), part] = drawn
        return make_rollouts(prompts, tokenizer, tokens, eos=eos, logp=logp, version=self.version)


def _loop_for(model: Any) -> Any:
    from lightning_focal.generation.cache import why_not_growing

    reason = why_not_growing(model)
    if reason is None:
        return decode
    name = type(model).__name__
    if name not in _told:
        _told.add(name)
        _log.warning("%s decodes with its own generate(), without a shared prefill: %s", name, reason)
    return decode_with_generate


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
