"""The decoding loops: an own one that shares the prompt's work, and transformers' ``generate()`` for models it does not fit."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_focal.generation.assemble import left_pad
from lightning_focal.generation.base import Sampling
from lightning_focal.generation.lean import LeanStep
from lightning_focal.generation.sampling import pick_tokens
from lightning_focal.generation.shared import SharedPrompts, shares_prompts
from lightning_focal.generation.weights import bare_model

__all__ = ["Batch", "decode", "decode_with_generate", "plan_batches"]

_CHECK_EVERY = 8
"""Tokens between two looks at what has finished, on a device where a look waits for it."""


@dataclass(frozen=True)
class Batch:
    """Rollouts ``start`` to ``stop`` (exclusive) of each of ``prompts`` (indices)."""

    prompts: tuple[int, ...]
    start: int
    stop: int


def plan_batches(lengths: Sequence[int], group_size: int, batch_size: int) -> list[Batch]:
    """Cut the work into batches of at most ``batch_size`` rollouts, as even as can be.

    Prompts of like length go together, groups are kept whole unless one alone exceeds ``batch_size``.

    Args:
        lengths: of the prompts, in tokens.
        group_size: rollouts of a prompt.
        batch_size: rollouts at once.

    Returns:
        The batches; each rollout of each prompt is in exactly one.

    >>> plan_batches([5, 1, 3], group_size=2, batch_size=4)
    [Batch(prompts=(1, 2), start=0, stop=2), Batch(prompts=(0,), start=0, stop=2)]
    >>> plan_batches([5], group_size=3, batch_size=2)
    [Batch(prompts=(0,), start=0, stop=2), Batch(prompts=(0,), start=2, stop=3)]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    if not order:
        return []
    pieces = _even(group_size, batch_size)
    return [
        Batch(tuple(order[first:last]), start, stop)
        for first, last in _even(len(order), max(batch_size // group_size, 1))
        for start, stop in pieces
    ]


def _even(total: int, largest: int) -> list[tuple[int, int]]:
    """``total`` things in the fewest runs of at most ``largest``, sizes differing by at most one."""
    count = -(-total // largest)
    size, longer = divmod(total, count)
    stops = [size * (i + 1) + min(i + 1, longer) for i in range(count)]
    return list(zip([0, *stops], stops, strict=False))


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    sampling: Sampling,
    *,
    eos: Collection[int],
    pad: int,
    lean: LeanStep | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode with one prefill a prompt, shared by its rollouts; finished rollouts leave the batch.

    Args:
        model: for which :func:`~lightning_focal.generation.cache.why_not_growing` gives None, in eval mode, without gradients.
        prompts: ``B`` rows of tokens.
        uniforms: ``[B, R, T]`` in [0, 1): ``R`` rollouts of each prompt, at most ``T`` tokens each.
        sampling: how to draw.
        eos: ids that end a response.
        pad: any valid id; it stands where the masks hide it.
        lean: steps of ``model``; None = the model's own forward.

    Returns:
        ``(tokens [B, R, T] int64, logp [B, R, T] float32)``; what follows a row's first eos is meaningless.
    """
    from lightning_focal.generation.cache import growing_cache
    from lightning_focal.generation.graphed import GraphedSteps, graphs_steps

    device = next(model.parameters()).device
    count, repeats, limit = uniforms.shape
    ids, prompt_mask = (t.to(device) for t in left_pad(prompts, pad))
    padded = len({len(prompt) for prompt in prompts}) > 1
    ends = torch.tensor(sorted(eos), device=device)
    draws = uniforms.reshape(count * repeats, limit).to(device)
    tokens = torch.full((count * repeats, limit), pad, device=device)
    logp = torch.zeros(count * repeats, limit, device=device)

    cache, bare = growing_cache(), bare_model(model)
    inputs: dict[str, Any] = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
    if padded:
        inputs["attention_mask"] = prompt_mask.long()
        inputs["position_ids"] = (prompt_mask.long().cumsum(1) - 1).clamp(min=0)
    if "logits_to_keep" in inspect.signature(bare.forward).parameters:
        inputs["logits_to_keep"] = 1
    logits = model(**inputs).logits[:, -1].repeat_interleave(repeats, 0)
    shared = SharedPrompts(bare, cache, prompt_mask, repeats) if shares_prompts(bare) else None
    graphed = GraphedSteps.of(model, bare, cache, prompt_mask, repeats, limit) if graphs_steps(bare, limit) else None
    if shared is None and graphed is None:
        for layer in cache.layers:
            layer.batch_repeat_interleave(repeats)

    rows = torch.arange(count * repeats, device=device)
    finished = torch.zeros_like(rows, dtype=torch.bool)
    position = prompt_mask.sum(1).repeat_interleave(repeats)[:, None]
    seen = torch.cat([prompt_mask.repeat_interleave(repeats, 0), prompt_mask.new_ones(len(rows), limit)], dim=1)
    for step in range(limit):
        barred = ends if step < sampling.min_new_tokens else None
        token, token_logp = pick_tokens(logits, draws[rows, step], sampling, barred)
        tokens[rows, step], logp[rows, step] = token, token_logp
        finished |= torch.isin(token, ends)
        if step + 1 == limit:
            break
        if device.type == "cpu" or (step + 1) % _CHECK_EVERY == 0:
            alive = (~finished).nonzero()[:, 0]
            if len(alive) == 0:
                break
            few = len(rows) // 2 if graphed is not None else len(rows) * 7 // 8
            if len(alive) <= few:  # more than that is not worth copying the cache, nor capturing again
                rows, token, finished, position, seen = (t[alive] for t in (rows, token, finished, position, seen))
                if graphed is not None:
                    graphed.keep(alive)
                elif shared is not None:
                    shared.keep(alive)
                else:
                    for layer in cache.layers:
                        layer.batch_select_indices(alive)
        inputs = {"input_ids": token[:, None], "position_ids": position + step, "past_key_values": cache, "use_cache": True}
        if graphed is not None:
            logits = graphed.step(token, position + step)
        elif lean is not None and shared is not None:
            logits = lean(token[:, None], position + step, cache, shared)
        elif shared is not None:
            with shared.attended():
                logits = model(**inputs, shared=shared).logits[:, -1]
        else:
            mask = _step_mask(model, seen[:, : ids.shape[1] + step + 1], padded)
            logits = model(**inputs, attention_mask=mask).logits[:, -1]
    return tokens.reshape(count, repeats, limit), logp.reshape(count, repeats, limit)


def _step_mask(model: Any, seen: Tensor, padded: bool) -> Tensor | None:
    """The mask of one decoding step: ready-made ``[N, 1, 1, S]`` where that is understood, else ``[N, S]``, or None.

    Without a mask the grouped-query kernel on the CPU takes half as long again for a whole step (SmolLM2, bfloat16), so one is
    passed there even where nothing is padded; a CUDA device is quicker without.
    """
    bare = bare_model(model)
    if bare.config._attn_implementation == "sdpa" and getattr(bare, "_supports_attention_backend", False):
        return seen[:, None, None] if padded or seen.device.type == "cpu" else None
    return seen.long() if padded else None


def decode_with_generate(
    model: Any, prompts: Sequence[Sequence[int]], uniforms: Tensor, sampling: Sampling, *, eos: Collection[int], pad: int
) -> tuple[Tensor, Tensor]:
    """The same responses by the model's own ``generate()``: any cache that transformers knows, but a prefill for each rollout.

    A logits processor draws the token and leaves ``generate()`` no choice but that one, so seeds mean the same in both loops.

    Args:
        model: in eval mode, without gradients.
        prompts: see :func:`decode`.
        uniforms: see :func:`decode`.
        sampling: see :func:`decode`.
        eos: see :func:`decode`.
        pad: see :func:`decode`.

    Returns:
        See :func:`decode`.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    device = next(model.parameters()).device
    count, repeats, limit = uniforms.shape
    ids, mask = (t.to(device).repeat_interleave(repeats, 0) for t in left_pad(prompts, pad))
    ends = torch.tensor(sorted(eos), device=device)
    choice = _ForcedChoice(uniforms.reshape(count * repeats, limit).to(device), sampling, ends, pad)
    bare = bare_model(model)
    stored = bare.generation_config
    plain = GenerationConfig(do_sample=False, num_beams=1, eos_token_id=sorted(eos), pad_token_id=pad)
    plain.cache_implementation = getattr(stored, "cache_implementation", None)
    # What a call leaves unsaid, `generate()` takes from the stored config: penalties, suppressed tokens, ...
    bare.generation_config = plain
    try:
        bare.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            max_new_tokens=limit,
            logits_processor=LogitsProcessorList([choice]),
        )
    finally:
        bare.generation_config = stored
    return choice.tokens.reshape(count, repeats, limit), choice.logp.reshape(count, repeats, limit)


class _ForcedChoice:
    """A logits processor that samples by :func:`pick_tokens` and makes the drawn token the only possible one."""

    def __init__(self, draws: Tensor, sampling: Sampling, ends: Tensor, pad: int) -> None:
        self.draws, self.sampling, self.ends, self.step = draws, sampling, ends, 0
        self.tokens = torch.full(draws.shape, pad, device=draws.device)
        self.logp = torch.zeros(draws.shape, device=draws.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        barred = self.ends if self.step < self.sampling.min_new_tokens else None
        token, logp = pick_tokens(scores, self.draws[:, self.step], self.sampling, barred)
        self.tokens[:, self.step], self.logp[:, self.step] = token, logp
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)
