"""How a model computes rows of unequal length: in one row, side by side, or one length at a time; tried on the model at hand."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_focal.models.attention import use_layouts, use_own_attention
from lightning_focal.models.cache import accepted, why_not_plain
from lightning_focal.models.packing import Pack, Sizes
from lightning_focal.models.shard import reshard
from lightning_focal.models.weights import bare_model, compute_device, eval_mode

__all__ = [
    "alike",
    "coarseness",
    "context_length",
    "how_they_differ",
    "leave",
    "length_limit",
    "own_logp",
    "rounding",
    "rows_in_words",
    "trial_tokens",
    "why_not_packed",
    "why_not_padded",
]

_log = logging.getLogger(__name__)

_PROMPTS, _RESPONSES, _OWNERS = (4, 4, 9), (3, 8, 5), (0, 0, 1)
"""Tokens of the rows that a model is tried on, and the prompt of each."""

_ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-3}
"""Mean difference of two ways to compute the same logits, as a part of their size, that rounding explains; below for bfloat16."""

_COARSE, _ALWAYS = 1.5e-2, 5e-6
"""The same in bfloat16; and in nats, what float32 makes of any log-probability."""

_reasons: WeakKeyDictionary[nn.Module, tuple[str | None, str | None]] = WeakKeyDictionary()


def why_not_packed(model: nn.Module) -> str | None:
    """Return the reason why ``model`` cannot take packed rows, or None when it can; found out once and logged.

    A few rows of unequal length are computed one at a time by the model as it is, then in one row by the attention that replaces
    its own. Every process of a sharded model must ask, since the model is run.
    """
    return _tried(model)[0]


def why_not_padded(model: nn.Module) -> str | None:
    """Return the reason why rows of ``model`` cannot be padded at their ends, or None when they can; as :func:`why_not_packed`."""
    return _tried(model)[1]


def rows_in_words(model: nn.Module, packed: bool = True) -> str:
    """Say how an update computes its rows, and why not in a quicker way.

    >>> from lightning_focal.models import load_policy
    >>> rows_in_words(load_policy("random:tiny-llama?layers=1")[0])
    'rows without padding'
    """
    in_one, side_by_side = _tried(model)
    if side_by_side is not None:
        words = f"rows of one length at a time ({side_by_side})"
    elif packed:
        words = "rows without padding" if in_one is None else f"padded rows ({in_one})"
    else:
        words = "padded rows"
    kind, limit = length_limit(bare_model(model)) or ("", 0)
    return f"{words}, those of more than {limit} tokens apart ({kind})" if kind == "longrope" else words


def alike(model: nn.Module, lengths: Sequence[int]) -> list[list[int]]:
    """Part rows into those that one call may compute together.

    Args:
        model: see :func:`why_not_packed`.
        lengths: tokens of each row, prompt and response.

    Returns:
        Indices of rows, each in one part; in the order given where all go together.

    Raises:
        ValueError: for a row so long that the model's positions depend on what was computed before.

    >>> from lightning_focal.models import load_policy
    >>> alike(load_policy("random:tiny-llama?layers=1")[0], [3, 5, 3])
    [[0, 1, 2]]
    """
    kind, limit = length_limit(bare_model(model)) or ("", 0)
    if kind == "dynamic" and max(lengths, default=0) > limit:
        raise ValueError(
            f"a row has {max(lengths)} tokens; beyond {limit} the policy's positions (rope of type dynamic) depend on the longest row "
            "computed before, so that no log-probability is its own: cut rows, or choose a policy with another rope"
        )
    parts: dict[int, list[int]] = {}
    apart = why_not_padded(model) is not None
    for row, length in enumerate(lengths):
        parts.setdefault(length if apart else int(bool(kind) and length > limit), []).append(row)
    return [*parts.values()]


def length_limit(model: Any) -> tuple[str, int] | None:
    """Return at how many tokens a model's positions change with the longest row of a call, and by what rope; None for most models.

    ``longrope`` (Phi-3.5, Phi-4-mini) takes other frequencies for every position once a row is longer; ``dynamic`` takes those of
    the longest row so far.
    """
    config = model.config.get_text_config()
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in found.values() if isinstance(value, Mapping)]
    limits = []
    for rope in nested or [found]:
        kind = rope.get("rope_type", rope.get("type"))
        if kind == "longrope":
            own = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            limits.append((kind, int(own or config.max_position_embeddings)))
        elif kind == "dynamic":
            limits.append((kind, int(config.max_position_embeddings)))
    return min(limits, key=lambda limit: limit[1], default=None)


def leave(model: nn.Module, why: str) -> None:
    """Compute rows in the next slower way from here on, in words.

    Raises:
        RuntimeError: where there is no slower one.
    """
    base, (packed, padded) = bare_model(model), _tried(model)
    if padded is not None:
        raise RuntimeError(f"an update of {type(base).__name__} cannot compute what its own forward does: {why}")
    _reasons[base] = (why, None) if packed is None else (packed, why)
    use_own_attention(base)
    _say(base)


def own_logp(model: nn.Module, prompt: Sequence[int], response: Tensor, temperature: float) -> tuple[Tensor, float]:
    """Return ``[T]`` log-probabilities of a response by the model's own forward of one row, without cache or padding.

    Returns:
        They, and the largest mean difference that rounding explains.
    """
    base, kept = bare_model(model), len(response) + 1
    whole = torch.cat([torch.tensor(prompt, device=response.device), response])[None]
    logits = model(**accepted(base, {"input_ids": whole, "use_cache": False, "logits_to_keep": kept})).logits[0, -kept:-1]
    logp = torch.log_softmax(logits.float() / temperature, -1).gather(-1, response[:, None])[:, 0]
    return logp, rounding(logits.detach(), base) / temperature * (1 + 3 / len(response) ** 0.5)  # more in a mean over few tokens


def how_they_differ(gaps: Iterable[tuple[Tensor, float]]) -> str | None:
    """Say that log-probabilities differ from a model's own by more than rounding, None where they do not."""
    found = [(float(gap.detach().abs().mean()), bound) for gap, bound in gaps]
    gap, bound = max(found, key=lambda pair: pair[0] / pair[1] if math.isfinite(pair[0]) else math.inf)
    return None if gap <= bound else f"its log-probabilities there differ from its own forward by {gap:.2g} nats a token"


def coarseness(model: nn.Module, *tensors: Tensor) -> float:
    """Difference, as a part of what is computed, that rounding explains between two ways to compute it."""
    dtypes = {*(t.dtype for t in tensors), *(p.dtype for p in model.parameters() if p.is_floating_point())}
    coarse = max(_ROUNDING.get(dtype, _COARSE) for dtype in dtypes)
    fast = compute_device(model).type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return max(coarse, _ROUNDING[torch.float16]) if fast else coarse


def rounding(logits: Tensor, model: nn.Module) -> float:
    """Largest mean difference, in nats, that rounding explains between two ways to compute logits or their log-probabilities.

    Args:
        logits: ``[..., V]`` of one of them.
        model: see :func:`coarseness`.
    """
    finite = logits[logits.isfinite()].float()  # some models rule tokens out
    return coarseness(model, logits) * float(finite.square().mean().sqrt()) + _ALWAYS


def context_length(model: Any) -> int | None:
    """Return the tokens that a transformers model has positions for; None where its configuration names no number."""
    named = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return named if named and named > 0 else None  # -1 stands for none in some


def trial_tokens(model: Any, lengths: Sequence[int], room: int = 0) -> list[list[int]]:
    """Make rows of tokens that a model is tried on, the same every time."""
    context = context_length(model) or 4096
    vocabulary = min(getattr(model.config.get_text_config(), "vocab_size", None) or 256, 256)
    return [
        [(37 * i + 11 * (row + 1)) % vocabulary for i in range(max(1, min(length, context - room)))]
        for row, length in enumerate(lengths)
    ]


def _tried(model: nn.Module) -> tuple[str | None, str | None]:
    base = bare_model(model)
    if base not in _reasons:
        _reasons[base] = _try(model, base)
        _say(base)
    return _reasons[base]


def _say(base: nn.Module) -> None:
    packed, padded = _reasons[base]
    if padded is not None:
        _log.warning("%s computes rows of one length at a time: %s", type(base).__name__, padded)
    elif packed is not None:
        _log.warning("%s computes a prompt for each of its responses: %s", type(base).__name__, packed)


def _try(model: nn.Module, base: Any) -> tuple[str | None, str | None]:
    """Why not packed and why not padded, by the logits of three short rows with two prompts."""
    device = compute_device(model)
    each, responses = trial_tokens(base, _PROMPTS, max(_RESPONSES)), trial_tokens(base, _RESPONSES)
    prompts = [each[_OWNERS.index(owner)] for owner in _OWNERS]
    rows = [torch.tensor([*prompt, *response]) for prompt, response in zip(prompts, responses, strict=True)]
    sizes = Sizes(_OWNERS, tuple(map(len, prompts)), _RESPONSES)
    spans = [slice(len(prompt) - 1, len(row) - 1) for prompt, row in zip(prompts, rows, strict=True)]

    def logits(**inputs: Any) -> Tensor:
        made: Tensor = model(**accepted(base, inputs | {"use_cache": False})).logits
        return made

    def padded() -> Tensor:
        made = logits(input_ids=pad_sequence(rows, batch_first=True).to(device))
        return torch.cat([made[row, span] for row, span in enumerate(spans)])

    def packed() -> Tensor:
        left = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True, padding_side="left")
        right = pad_sequence([torch.tensor(response) for response in responses], batch_first=True)
        pack = Pack.of(left.to(device), right.to(device), sizes)
        made = logits(input_ids=pack.input_ids, position_ids=pack.position_ids, layout=pack)
        return made[0].index_select(0, pack.predicting)

    def why_not(way: Callable[[], Tensor]) -> str | None:
        try:
            gap = float((way().float() - own.float())[own.isfinite()].abs().mean())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model raises
            return f"its forward does not take them: {type(error).__name__}: {[*str(error).splitlines(), ''][0]}"
        return None if gap <= exact else f"its logits are others there, by {gap:.2g} on average"

    with eval_mode(model):
        use_own_attention(base)
        own = torch.cat([logits(input_ids=row[None].to(device))[0, span] for row, span in zip(rows, spans, strict=True)])
        exact = rounding(own, model)
        why_padded = why_not(padded)
        why_packed = why_padded or use_layouts(base) or why_not_plain(base) or why_not(packed) or why_not(padded)
        if why_packed is not None:
            use_own_attention(base)
    reshard(model)
    return why_packed, why_padded
