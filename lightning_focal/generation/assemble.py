"""Lists of tokens to padded tensors and texts: the last step of every generator."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from lightning_focal.models.chat import prompt_opening
from lightning_focal.thoughts import HARMONY, MARKS, split_thought
from lightning_focal.types import Prompts, Rollouts

__all__ = ["check_request", "decode_responses", "eos_ids", "left_pad", "make_rollouts", "response_texts"]


def check_request(prompts: Prompts, group_size: int, seeds: Sequence[int]) -> None:
    """Check the arguments that every generator shares.

    Raises:
        ValueError: if ``prompts.tokens`` is missing or has an empty row, ``group_size`` < 1, or ``seeds`` has another length.
    """
    if len(prompts.tokens) != len(prompts):
        raise ValueError(f"`prompts.tokens` must be filled before generating ({len(prompts)} rows), got {len(prompts.tokens)}")
    for name, tokens in zip(prompts.ids, prompts.tokens, strict=True):
        if not tokens:
            raise ValueError(f"`prompts.tokens` of prompt {name!r} must hold at least one token, got none")
    if group_size < 1:
        raise ValueError(f"`group_size` must be >= 1, got {group_size}")
    if len(seeds) != len(prompts):
        raise ValueError(f"`seeds` must hold one seed a prompt ({len(prompts)}), got {len(seeds)}")


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token id that ends a response: the generation config's and the tokenizer's.

    Raises:
        ValueError: if neither names one.
    """
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found |= set() if ids is None else {ids} if isinstance(ids, int) else {int(i) for i in ids}
    if not found:
        raise ValueError("no eos: neither the policy's `generation_config` nor the tokenizer has an `eos_token_id`")
    return frozenset(found)


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """``([N, L] int64, [N, L] bool)``: the rows at the right edge, and where they are.

    >>> left_pad([[1, 2], [3]], pad=0)
    (tensor([[1, 2],
            [0, 3]]), tensor([[ True,  True],
            [False,  True]]))
    """
    width = max(map(len, rows), default=1)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.int64)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], dtype=torch.bool)
    return ids.reshape(len(rows), width), mask.reshape(len(rows), width)


def make_rollouts(
    prompts: Prompts,
    tokenizer: Any,
    tokens: Tensor,
    *,
    eos: Collection[int],
    lengths: Tensor | None = None,
    logp: Tensor | None = None,
    version: int = 0,
) -> Rollouts:
    """Cut responses after their first eos, decode them and pad everything.

    Args:
        prompts: with ``tokens`` filled.
        tokenizer: decodes; its padding id fills what the masks leave out.
        tokens: ``[P, G, T]`` int64; what follows a row's first eos is ignored.
        eos: ids that end a response.
        lengths: ``[P, G]`` tokens of each row to look at, or None for all ``T``.
        logp: ``[P, G, T]`` float32, or None.
        version: of the weights.

    Returns:
        The rollouts, on the device of ``tokens``, trimmed to the longest response. ``truncated`` is True where no eos was found.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
    device, width = tokens.device, tokens.shape[-1]
    place = torch.arange(width, device=device)
    within = place < (lengths if lengths is not None else torch.full(tokens.shape[:2], width, device=device))[..., None]
    ends = torch.isin(tokens, torch.tensor(sorted(eos), device=device)) & within
    mask = within & (ends.cumsum(-1) - ends.long() == 0)
    truncated = ~ends.any(-1)
    kept = max(int(mask.any(0).any(0).sum()), 1)
    mask, tokens = mask[..., :kept], tokens[..., :kept].masked_fill(~mask[..., :kept], pad)
    rows, counts = tokens.cpu().tolist(), mask.sum(-1).tolist()
    openings = tuple(prompt_opening(tokenizer, row) for row in prompts.tokens)
    texts = tuple(
        tuple(response_texts(tokenizer, opening, [row[:count] for row, count in zip(group, amounts, strict=True)], eos))
        for opening, group, amounts in zip(openings, rows, counts, strict=True)
    )
    prompt_ids, prompt_mask = left_pad(prompts.tokens, pad)
    return Rollouts(
        prompts=prompts,
        texts=texts,
        prompt_ids=prompt_ids.to(device),
        prompt_mask=prompt_mask.to(device),
        response_ids=tokens,
        response_mask=mask,
        truncated=truncated,
        logp=None if logp is None else logp[..., :kept].masked_fill(~mask, 0.0),
        version=version,
        thought_tokens=_thought_tokens(tokenizer, texts, mask.sum(-1)),
        openings=openings,
    )


def response_texts(tokenizer: Any, opening: str, rows: Sequence[Sequence[int]], eos: Collection[int]) -> list[str]:
    """Return the texts of responses to one prompt, as :class:`~lightning_focal.types.Rollouts` hold them.

    Args:
        tokenizer: decodes.
        opening: the mark by which the prompt opened a thought, or empty.
        rows: tokens of each response; what follows the first eos is ignored.
        eos: ids that end a response.
    """
    bodies = [list(takewhile(lambda token: token not in eos, row)) for row in rows]
    return [f"{opening}{text}" for text in decode_responses(tokenizer, bodies)]


def decode_responses(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return texts without special tokens, other than those that mark a thought."""
    special = {i: token.content for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    marks = {*MARKS, *MARKS.values(), *(HARMONY if HARMONY[1] in special.values() else ())}
    kept = {i for i, content in special.items() if any(mark.startswith(content) for mark in marks)}
    if kept:
        dropped = {*special, *tokenizer.all_special_ids} - kept
        rows = [[i for i in row if i not in dropped] for row in rows]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=not kept, clean_up_tokenization_spaces=False))


def _thought_tokens(tokenizer: Any, texts: Sequence[Sequence[str]], lengths: Tensor) -> Tensor:
    """``[P, G]`` tokens of the thoughts without their marks, at most those of the response."""
    thoughts = [[split_thought(text).thought for text in group] for group in texts]
    counts = [
        [len(tokenizer(thought, add_special_tokens=False)["input_ids"]) if thought else 0 for thought in t] for t in thoughts
    ]
    found = torch.tensor(counts, dtype=torch.int64, device=lengths.device).reshape(lengths.shape)
    return torch.minimum(found, lengths)
