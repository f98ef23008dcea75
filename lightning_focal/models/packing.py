"""Prompts and responses in one row without padding, each prompt once for all the responses to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Pack", "Sizes", "ranges"]

_WORTH = 1.3
"""Padded tokens for each packed one from which on packing is quicker on a GPU (one H100: at 1.22 it took 1.5 times as long)."""


@dataclass(frozen=True)
class Sizes:
    """What the host knows of ``N`` sequences, so that no device has to be asked.

    Args:
        prompts: names the prompt of each sequence; those with one number have the same prompt.
        prompt_lengths: tokens of each sequence's prompt.
        response_lengths: tokens of each response.
    """

    prompts: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[int, ...]

    @classmethod
    def of(cls, prompt_mask: Tensor, response_mask: Tensor, group_size: int = 1) -> Sizes:
        """Read masks ``[N, L]`` and ``[N, T]``, waiting for their device once; each ``group_size`` rows share their prompt.

        >>> Sizes.of(torch.ones(2, 3, dtype=torch.bool), torch.tensor([[True, False], [True, True]]), group_size=2)
        Sizes(prompts=(0, 0), prompt_lengths=(3, 3), response_lengths=(1, 2))
        """
        prompts, responses = torch.stack([prompt_mask.sum(1), response_mask.sum(1)]).tolist()
        return cls(tuple(i // group_size for i in range(len(prompts))), tuple(prompts), tuple(responses))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, prompt and response."""
        return [prompt + response for prompt, response in zip(self.prompt_lengths, self.response_lengths, strict=True)]

    def rows(self, index: Sequence[int]) -> Sizes:
        """Return some rows."""
        return Sizes(*(tuple(values[i] for i in index) for values in (self.prompts, self.prompt_lengths, self.response_lengths)))

    def packed_tokens(self) -> int:
        """Tokens of these sequences in one row, each prompt once."""
        return sum(dict(zip(self.prompts, self.prompt_lengths, strict=True)).values()) + sum(self.response_lengths)

    def padded_tokens(self) -> int:
        """Tokens of these sequences side by side, padding included."""
        return len(self.prompts) * max(self.lengths)

    def pays(self, device: torch.device) -> bool:
        """Say whether packing is quicker: on a GPU its many small kernels cost more than a few tokens computed twice.

        >>> Sizes((0, 0), (30, 30), (10, 10)).pays(torch.device("cuda"))  # the prompt once: 50 tokens for 80
        True
        """
        return device.type == "cpu" or self.padded_tokens() >= _WORTH * self.packed_tokens()


@dataclass(frozen=True)
class _Block:
    """Where the tokens of some sequences lie in a stretch of the row, and back."""

    first: int
    count: int
    width: int
    places: Tensor | None
    back: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], first: int, device: torch.device) -> _Block:
        width = max(lengths, default=0)
        if len(set(lengths)) <= 1:
            return cls(first, len(lengths), width, None, None)
        begins = torch.tensor([0, *lengths[:-1]]).cumsum(0)[:, None]
        column, length = torch.arange(width)[None], torch.tensor(lengths)[:, None]
        places = torch.where(column < length, begins + column, 0).flatten()
        back = (column < length).flatten().nonzero()[:, 0]
        return cls(first, len(lengths), width, places.to(device), back.to(device))

    def cut(self, states: Tensor) -> Tensor:
        """``[S, heads, dim]`` to ``[count, heads, width, dim]``."""
        tokens = self.count * self.width if self.back is None else len(self.back)
        part = states[self.first : self.first + tokens]
        part = part if self.places is None else part.index_select(0, self.places)
        return part.reshape(self.count, self.width, *states.shape[1:]).transpose(1, 2)

    def join(self, states: Tensor) -> Tensor:
        """``[count, heads, width, dim]`` to ``[tokens, heads, dim]``."""
        flat = states.transpose(1, 2).flatten(0, 1)
        return flat if self.back is None else flat.index_select(0, self.back)


@dataclass(frozen=True)
class Pack:
    """A row of tokens: all prompts, then all responses without their last tokens, from which nothing is predicted.

    Args:
        input_ids: ``[1, S]``.
        position_ids: ``[1, S]``, each response's go on from its prompt's.
        predicting: ``[M]`` the place in the row that predicts each response token, responses one after another.
        targets: ``[M]`` those tokens.
        prompts: where prompts lie.
        responses: where responses lie.
        owners: ``[N]`` the prompt of each response.
        even: responses of a prompt, where they follow one another in equal numbers, else 0.
        mask: ``[N or 1, 1, R, L + R]`` bool, what a response token attends to: its prompt, and the response so far.
    """

    input_ids: Tensor
    position_ids: Tensor
    predicting: Tensor
    targets: Tensor
    prompts: _Block
    responses: _Block
    owners: Tensor
    even: int
    mask: Tensor

    @classmethod
    def of(cls, prompt_ids: Tensor, response_ids: Tensor, sizes: Sizes) -> Pack:
        """Lay out ``N`` sequences."""
        device, width, limit = prompt_ids.device, prompt_ids.shape[1], response_ids.shape[1]
        numbers, limits = sizes.prompts, sizes.response_lengths
        own = {number: i for i, number in enumerate(dict.fromkeys(numbers))}
        owners = [own[number] for number in numbers]
        rows = [numbers.index(number) for number in own]
        lengths, inputs = [sizes.prompt_lengths[row] for row in rows], [max(n - 1, 0) for n in limits]
        begins = torch.tensor([0, *lengths, *inputs]).cumsum(0).tolist()
        predicting = []
        for i, (owner, n) in enumerate(zip(owners, limits, strict=True)):
            predicting += [(begins[owner + 1] - 1, min(n, 1)), (begins[len(own) + i], inputs[i])]

        def tokens_of(ids: Tensor, pieces: list[tuple[int, int]]) -> Tensor:
            return ids.flatten().index_select(0, ranges(pieces).to(device))

        prompts = tokens_of(prompt_ids, [((row + 1) * width - n, n) for row, n in zip(rows, lengths, strict=True)])
        responses = tokens_of(response_ids, [(i * limit, n) for i, n in enumerate(inputs)])
        starts = [(0, n) for n in lengths] + [(lengths[owner], n) for owner, n in zip(owners, inputs, strict=True)]
        even = len(numbers) // len(own)
        return cls(
            input_ids=torch.cat([prompts, responses])[None],
            position_ids=ranges(starts).to(device)[None],
            predicting=ranges(predicting).to(device),
            targets=tokens_of(response_ids, [(i * limit, n) for i, n in enumerate(limits)]),
            prompts=_Block.of(lengths, 0, device),
            responses=_Block.of(inputs, sum(lengths), device),
            owners=torch.tensor(owners).to(device),
            even=even if owners == [i // even for i in range(len(own) * even)] else 0,
            mask=_mask([lengths[owner] for owner in owners], max(lengths), max(inputs)).to(device),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
        """Attention of the row: ``[1, heads, S, dim]`` each, ``[1, S, heads, dim]`` returned; key and value may have fewer heads."""
        states = [t[0].transpose(0, 1) for t in (query, key, value)]
        q, k, v = (self.prompts.cut(t) for t in states)
        joined = [self.prompts.join(_attended(q, k, v, None, dropout, scale))]
        if self.responses.width:
            q, *own = (self.responses.cut(t) for t in states)
            keys, values = (torch.cat([self._for_each_response(p), r], dim=2) for p, r in zip((k, v), own, strict=True))
            out = _attended(q, keys, values, self.mask, dropout, scale)
            joined.append(self.responses.join(out))
        return torch.cat(joined)[None]

    def _for_each_response(self, states: Tensor) -> Tensor:
        if self.even:
            return states[:, None].expand(-1, self.even, -1, -1, -1).flatten(0, 1)
        return states.index_select(0, self.owners)


def ranges(pieces: Sequence[tuple[int, int]]) -> Tensor:
    """``first, first + 1, ...``, ``length`` of them, for each ``(first, length)``, one after another.

    >>> ranges([(5, 2), (0, 3)])
    tensor([5, 6, 0, 1, 2])
    """
    return torch.cat([torch.arange(first, first + length) for first, length in pieces])


def _mask(prompts: Sequence[int], width: int, limit: int) -> Tensor:
    causal = torch.ones(limit, limit, dtype=torch.bool).tril()
    seen = torch.arange(width) < torch.tensor(prompts if len(set(prompts)) > 1 else prompts[:1])[:, None]
    rows = [seen[:, None, None].expand(-1, -1, limit, -1), causal[None, None].expand(len(seen), -1, -1, -1)]
    return torch.cat(rows, dim=-1)


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float | None) -> Tensor:
    """Attention, causal without a mask; each key head serves as many query heads as it takes."""
    times = q.shape[1] // k.shape[1]
    if times > 1 and q.device.type != "cpu":  # CUDA's kernels for groups take no mask
        k, v = (t.repeat_interleave(times, 1) for t in (k, v))
    grouped = k.shape[1] < q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
