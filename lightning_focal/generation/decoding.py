"""The decoding loops: an own one that shares the prompt's work, and transformers' ``generate()`` for models it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_focal.generation.assemble import left_pad
from lightning_focal.generation.base import Sampling
from lightning_focal.generation.sampling import pick_tokens
from lightning_focal.models.cache import accepted, cache_argument
from lightning_focal.models.rows import how_they_differ, own_logp
from lightning_focal.models.weights import bare_model

__all__ = ["Batch", "Ended", "decode", "decode_with_generate", "plan_batches", "why_not_own"]

Ended = Callable[[Sequence[int], Sequence[Sequence[int]]], None]
"""Takes rollouts that ended: their numbers among the ``B * R`` of a batch, and their tokens."""

_CHECK_EVERY = 8
"""Tokens between two looks at what has finished, on a device where a look waits for it."""

_COMPARED, _COMPARED_TOKENS = 4, 64
"""Responses, and tokens of each, that are compared with the model's own forward."""


@dataclass(frozen=True)
class Batch:
    """Rollouts ``start`` to ``stop`` (exclusive) of each of ``prompts`` (indices)."""

    prompts: tuple[int, ...]
    start: int
    stop: int


def plan_batches(
    lengths: Sequence[int], group_size: int, batch_size: int, kind: Callable[[int], Hashable] = lambda length: None
) -> list[Batch]:
    """Cut the work into batches of at most ``batch_size`` rollouts, as even as can be.

    Prompts of like length go together, groups are kept whole unless one alone exceeds ``batch_size``.

    Args:
        lengths: of the prompts, in tokens.
        group_size: rollouts of a prompt.
        batch_size: rollouts at once.
        kind: of a prompt's length; only prompts of one kind go together.

    Returns:
        The batches; each rollout of each prompt is in exactly one.

    >>> plan_batches([5, 1, 3], group_size=2, batch_size=4)
    [Batch(prompts=(1, 2), start=0, stop=2), Batch(prompts=(0,), start=0, stop=2)]
    >>> plan_batches([5], group_size=3, batch_size=2)
    [Batch(prompts=(0,), start=0, stop=2), Batch(prompts=(0,), start=2, stop=3)]
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    alike: dict[Hashable, list[int]] = {}
    for i in order:
        alike.setdefault(kind(lengths[i]), []).append(i)
    return [
        Batch(tuple(run[first:last]), start, stop)
        for run in alike.values()
        for first, last in _even(len(run), max(batch_size // group_size, 1))
        for start, stop in _even(group_size, batch_size)
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
    graphs: bool = True,
    ended: Ended | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode over transformers' cache: each prompt is computed once for all its rollouts, and finished rollouts leave the batch.

    Args:
        model: for which :func:`~lightning_focal.models.cache.why_not_cached` gives None, in eval mode, without gradients.
        prompts: ``B`` rows of tokens.
        uniforms: ``[B, R, T]`` in [0, 1): ``R`` rollouts of each prompt, at most ``T`` tokens each.
        sampling: how to draw.
        eos: ids that end a response.
        pad: any valid id; it stands where the masks hide it.
        graphs: replay CUDA graphs where they are possible and pay.
        ended: called with every rollout once, soon after it ended.

    Returns:
        ``(tokens [B, R, T] int64, logp [B, R, T] float32)``; what follows a row's first eos is meaningless.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    from lightning_focal.generation.graphed import GraphedSteps, graphs_steps

    device = next(model.parameters()).device
    count, repeats, limit = uniforms.shape
    ids, seen = (t.to(device) for t in left_pad(prompts, pad))
    padded = len({len(prompt) for prompt in prompts}) > 1
    ends = torch.tensor(sorted(eos), device=device)
    draws = uniforms.reshape(count * repeats, limit).to(device)
    tokens = torch.full((count * repeats, limit), pad, device=device)
    logp = torch.zeros(count * repeats, limit, device=device)

    bare = bare_model(model)
    cache = DynamicCache(config=bare.config)
    cache_name = str(cache_argument(bare))
    attends = any(isinstance(layer, DynamicLayer) for layer in cache.layers)

    def logits_after(new: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": new, cache_name: cache, "use_cache": True}
        if padded and (attends or new.shape[1] > 1):  # a recurrent state holds no padding
            inputs["attention_mask"] = mask.long()
        inputs = accepted(bare, inputs | {"position_ids": positions, "logits_to_keep": 1})
        made: Tensor = model(**inputs).logits[:, -1]
        return made

    logits = logits_after(ids, (seen.long().cumsum(1) - 1).clamp(min=0), seen).repeat_interleave(repeats, 0)
    graphed = GraphedSteps.of(model, bare, cache, seen, repeats, limit) if graphs and graphs_steps(bare, limit) else None
    if graphed is None:
        cache.reorder_cache(torch.arange(count, device=device).repeat_interleave(repeats))

    rows = torch.arange(count * repeats, device=device)
    finished = torch.zeros_like(rows, dtype=torch.bool)
    told = torch.zeros_like(rows, dtype=torch.bool)
    position = seen.sum(1).repeat_interleave(repeats)[:, None]
    seen = torch.cat([seen.repeat_interleave(repeats, 0), seen.new_ones(len(rows), limit)], dim=1)
    for step in range(limit):
        barred = ends if step < sampling.min_new_tokens else None
        token, token_logp = pick_tokens(logits, draws[rows, step], sampling, barred)
        tokens[rows, step], logp[rows, step] = token, token_logp
        finished |= torch.isin(token, ends)
        if step + 1 == limit:
            break
        if device.type == "cpu" or (step + 1) % _CHECK_EVERY == 0:
            alive = (~finished).nonzero()[:, 0]
            if ended is not None and len(alive) < len(rows):
                new = rows[finished & ~told[rows]]
                told[new] = True
                ended(new.tolist(), tokens[new, : step + 1].tolist())
            if len(alive) == 0:
                break
            few = len(rows) // 2 if graphed is not None else len(rows) * 7 // 8
            if len(alive) <= few:  # more than that is not worth copying the cache, nor capturing again
                rows, token, finished, position, seen = (t[alive] for t in (rows, token, finished, position, seen))
                if graphed is None:
                    cache.reorder_cache(alive)
                else:
                    graphed.keep(alive)
        if graphed is None:
            logits = logits_after(token[:, None], position + step, seen[:, : ids.shape[1] + step + 1])
        else:
            logits = graphed.step(token, position + step)
    if ended is not None:
        new = (~told).nonzero()[:, 0]
        ended(new.tolist(), tokens[new].tolist())
    return tokens.reshape(count, repeats, limit), logp.reshape(count, repeats, limit)


def why_not_own(
    model: Any, prompts: Sequence[Sequence[int]], tokens: Tensor, logp: Tensor, sampling: Sampling, *, eos: Collection[int]
) -> str | None:
    """Compare what a loop drew with the model's own forward over whole sequences: one at a time, without cache or padding.

    Returns:
        How they differ by more than rounding, or None.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    ends, gaps = torch.tensor(sorted(eos), device=tokens.device), []
    for row in sorted({order[i * (len(order) - 1) // (_COMPARED - 1)] for i in range(_COMPARED)}):
        response = tokens[row, 0, :_COMPARED_TOKENS]
        ended = torch.isin(response, ends).nonzero()
        response = response[: int(ended[0]) + 1] if len(ended) else response
        own, bound = own_logp(model, prompts[row], response, sampling.temperature or 1.0)
        gaps.append((own - logp[row, 0, : len(response)], bound))
    return how_they_differ(gaps)


def decode_with_generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    sampling: Sampling,
    *,
    eos: Collection[int],
    pad: int,
    cached: bool = True,
) -> tuple[Tensor, Tensor]:
    """The same responses by the model's own ``generate()``: any cache that transformers knows, but a prefill for each rollout.

    A logits processor draws the token and leaves ``generate()`` no choice but that one, so seeds mean the same in both loops.

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
            use_cache=cached,
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
