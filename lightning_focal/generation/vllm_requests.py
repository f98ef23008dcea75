"""What vLLM is asked and what it answers: the same for an engine in this process and for a server."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightning_focal.generation.assemble import make_rollouts
from lightning_focal.generation.base import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_focal.types import Prompts, Rollouts

__all__ = [
    "Answer",
    "LogprobsMode",
    "assemble",
    "best_mode",
    "expect_comparable",
    "expect_context",
    "sampling_params",
    "tells_logp",
]

LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]
"""vLLM's names for what it reports: ``softmax(logits)``, or the distribution that was drawn from."""

_log = logging.getLogger(__name__)
_told: set[tuple[Sampling, str]] = set()


@dataclass(frozen=True)
class Answer:
    """One response as vLLM gives it.

    Args:
        tokens: ids, the eos included.
        logp: of each token, as the engine's mode defines them.
        labels: of the weights that wrote it, each once.
        finished: vLLM's reason for the end, ``stop`` or ``length`` where all went well.
    """

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    labels: tuple[str, ...]
    finished: str


def sampling_params(sampling: Sampling, *, seed: int, count: int, eos: Collection[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's ``SamplingParams`` for one prompt.

    One request a prompt; vLLM draws its response ``g`` with the seed ``seed + g``. Greedy responses of a prompt are all the same:
    one is asked for.

    Args:
        sampling: how to draw.
        seed: of the prompt.
        count: responses.
        eos: ids that end a response.

    >>> wanted = sampling_params(Sampling(top_k=5, max_new_tokens=8), seed=3, count=2, eos={1})
    >>> wanted["n"], wanted["seed"], wanted["top_k"], wanted["max_tokens"], wanted["stop_token_ids"]
    (2, 3, 5, 8, [1])
    """
    return {
        "n": 1 if sampling.temperature == 0 else count,
        "seed": int(seed),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": sampling.min_new_tokens,
        "stop_token_ids": sorted(eos),
        "logprobs": 0,  # of the drawn token alone
        "detokenize": False,
    }


def best_mode(sampling: Sampling) -> LogprobsMode:
    """Return the mode in which vLLM reports what a trainer computes, ``log softmax(logits / temperature)``, for most samplings."""
    return "raw_logprobs" if sampling.temperature in (0, 1) else "processed_logprobs"


def tells_logp(sampling: Sampling, mode: str) -> bool:
    """Say whether what vLLM reports is ``log softmax(logits / temperature)``, before top-k, top-p and the ban on eos.

    Raw ones know no temperature; processed ones are divided by the mass that was kept.

    >>> tells_logp(Sampling(top_p=0.9), "raw_logprobs"), tells_logp(Sampling(top_p=0.9), "processed_logprobs")
    (True, False)
    >>> tells_logp(Sampling(temperature=0.7), "raw_logprobs"), tells_logp(Sampling(temperature=0.7), "processed_logprobs")
    (False, True)
    """
    if mode == "raw_logprobs":
        return sampling.temperature in (0, 1)
    cut = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_new_tokens > 0
    return mode == "processed_logprobs" and not cut


def expect_comparable(sampling: Sampling, mode: str) -> None:
    """Refuse a sampling whose log-probabilities are needed and not reported.

    Raises:
        ValueError: if :func:`tells_logp` says no.
    """
    if not tells_logp(sampling, mode):
        raise ValueError(
            "`model.update.importance_cap` needs log-probabilities of softmax(logits / temperature); vLLM reports them at temperature 1, "
            f"or without top_k, top_p and min_new_tokens; got {sampling} and logprobs mode {mode!r}"
        )


def expect_context(prompts: Prompts, sampling: Sampling, context: int) -> None:
    """Refuse prompts that leave no room for a response.

    Raises:
        ValueError: naming the first such prompt.
    """
    for name, row in zip(prompts.ids, prompts.tokens, strict=True):
        if len(row) + sampling.max_new_tokens > context:
            raise ValueError(
                f"`prompts`: prompt {name!r} has {len(row)} tokens; with `max_new_tokens` = {sampling.max_new_tokens} that "
                f"exceeds vLLM's context of {context} (`max_model_len`)"
            )


def assemble(
    answers: Sequence[Sequence[Answer]],
    prompts: Prompts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    group_size: int,
    sampling: Sampling,
    mode: str,
    eos: Collection[int],
    device: torch.device,
    version: int,
    label: str,
    sources: Sequence[str] | None = None,
) -> Rollouts:
    """Check where answers come from and make rollouts of them.

    Args:
        answers: ``[P][G]``, or ``[P][1]`` where greedy.
        prompts: with ``tokens`` filled.
        tokenizer: of the policy.
        group_size: ``G``.
        sampling: they were drawn with.
        mode: of their log-probabilities.
        eos: ids that end a response.
        device: of the rollouts.
        version: of the policy behind ``label``.
        label: of the weights that must have written every token.
        sources: ``[P]`` who answered each prompt, for messages.

    Returns:
        Rollouts; ``logp`` is None where vLLM's are of another distribution than a trainer's, which is said once.

    Raises:
        RuntimeError: if an answer is broken off, or written with other weights.
    """
    groups = [list(group) * (group_size // len(group)) for group in answers]
    for name, source, group in zip(prompts.ids, sources or ["vLLM"] * len(prompts), groups, strict=True):
        for answer in group:
            if set(answer.labels) != {label}:
                raise RuntimeError(
                    f"{source} answered prompt {name!r} with weights {', '.join(map(repr, answer.labels)) or 'unknown'}, the last sync "
                    f"wrote {label!r}: it was restarted, or somebody else changes its weights; resume the run to write them anew"
                )
            if answer.finished not in ("stop", "length"):
                raise RuntimeError(f"{source} did not answer prompt {name!r} to the end: {answer.finished!r}")
    told = tells_logp(sampling, mode)
    if not told and (sampling, mode) not in _told:
        _told.add((sampling, mode))
        _log.warning("no log-probabilities for %s: vLLM's %s are of another distribution than a trainer's", sampling, mode)
    width = max(len(answer.tokens) for group in groups for answer in group)
    fill = min(eos)

    def table(rows: list[list[Any]], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(rows, dtype=dtype, device=device).reshape(len(groups), group_size, width)

    flat = [answer for group in groups for answer in group]
    tokens = table([[*a.tokens, *[fill] * (width - len(a.tokens))] for a in flat], torch.int64)
    logp = table([[*a.logp, *[0.0] * (width - len(a.logp))] for a in flat], torch.float32) if told else None
    lengths = torch.tensor([len(a.tokens) for a in flat], device=device).reshape(len(groups), group_size)
    return make_rollouts(prompts, tokenizer, tokens, eos=eos, lengths=lengths, logp=logp, version=version)
