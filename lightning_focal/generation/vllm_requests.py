"""What rollouts by vLLM have in common, whether its engine is in this process or behind a server."""

from __future__ import annotations

import functools
import logging
import uuid
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_focal.foreign import weights_version
from lightning_focal.generation.assemble import check_request, eos_ids, make_rollouts, response_texts
from lightning_focal.generation.base import Finished, Generator, Sampling
from lightning_focal.models.chat import prompt_opening
from lightning_focal.models.lora import has_adapters
from lightning_focal.models.rows import coarseness, how_they_differ, own_logp, trial_tokens
from lightning_focal.models.shard import reshard
from lightning_focal.models.weights import bare_model, compute_device, eval_mode, is_sharded
from lightning_focal.types import Prompts, Rollouts

__all__ = ["Answer", "VLLMBase", "best_mode", "expect_comparable", "sampling_params", "tells_logp"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One response as vLLM gives it."""

    tokens: tuple[int, ...]
    """Ids, the eos included."""
    logp: tuple[float, ...]
    """Of each token."""
    labels: tuple[str, ...]
    """Of the weights that wrote it, each once."""
    finished: str
    """Why it ended: ``stop`` or ``length`` where all went well."""


def sampling_params(sampling: Sampling, *, seed: int, count: int, eos: Collection[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's ``SamplingParams`` for one prompt.

    vLLM draws response ``g`` with the seed ``seed + g``. Greedy responses of a prompt are all the same: one is asked for.

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


def best_mode(sampling: Sampling) -> str:
    """Return vLLM's mode that reports what a trainer computes for most samplings: see :func:`tells_logp`."""
    return "raw_logprobs" if sampling.temperature in (0, 1) else "processed_logprobs"


def tells_logp(sampling: Sampling, mode: str) -> bool:
    """Say whether vLLM reports ``log softmax(logits / temperature)``, before top-k, top-p and the ban on eos.

    ``raw_logprobs`` know no temperature. ``processed_logprobs`` are those of the distribution that was drawn from: divided by the mass
    that was kept.

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


@functools.cache
def _say_that_logp_is_missing(sampling: Sampling, mode: str) -> None:
    _log.warning("no log-probabilities for %s: vLLM's %s are of another distribution than a trainer's", sampling, mode)


class VLLMBase(Generator):
    """Rolls out with vLLM, wherever its engine runs.

    Each hand-over of weights has a label of its own. vLLM attaches its label to every answer, and an answer with another label
    than that of the last hand-over is an error.
    """

    def __init__(self) -> None:
        self.version, self.engines = 0, 1
        self._run, self._syncs, self._label = uuid.uuid4().hex[:8], 0, ""
        self._held: tuple[nn.Module, int] | None = None  # whose weights vLLM has, and their number of changes then
        self._unproven, self._proven = 3, ""  # hand-overs: before a run, and at its first rollout, adapters change nothing

    @abstractmethod
    def _connect(self, policy: nn.Module, tokenizer: Any, sampling: Sampling) -> tuple[int, str]:
        """Make sure that vLLM is there; return its context in tokens and the mode of its log-probabilities."""

    @abstractmethod
    def _hand_over(self, policy: nn.Module, label: str) -> str:
        """Bring the weights to vLLM and return the label that they have there: the first process's, where there are several."""

    @abstractmethod
    def _arithmetic(self) -> tuple[torch.dtype, str | None]:
        """Return the dtype that it computes in, and how its weights are quantised: None = not."""

    @abstractmethod
    def _ask(
        self,
        rows: Sequence[Sequence[int]],
        params: Sequence[dict[str, Any]],
        answered: Callable[[int, list[Answer]], None] | None = None,
    ) -> list[tuple[str, list[Answer]]]:
        """Return who answered each row of tokens, and the answers; ``answered`` is told of each row, where rows end by themselves."""

    def _prove(self, policy: nn.Module, context: int) -> None:
        """Compare log-probabilities of a few tokens, drawn by every engine, with the policy's own; a collective where it is sharded.

        Raises:
            RuntimeError: where they differ by more than rounding, unless the engine's weights are quantised.
        """
        base, count = bare_model(policy), min(16, context // 2)
        rows = [row[: context - count] for row in trial_tokens(base, (3, 14, *[7] * (self.engines - 2)), count)]
        wanted = sampling_params(Sampling(max_new_tokens=count), seed=0, count=1, eos={0})
        device, gaps = compute_device(policy), list[tuple[torch.Tensor, float]]()
        dtype, quantised = self._arithmetic()
        exact = dtype == torch.float32 and device.type == "cpu"
        coarser = coarseness(base, torch.empty(0, dtype=dtype if exact else torch.bfloat16)) / coarseness(base)
        answers = [group[0] for _, group in self._ask(rows, [wanted] * len(rows))]
        with eval_mode(policy), torch.no_grad():
            for row, answer in zip(rows, answers, strict=True):
                own, rounding = own_logp(policy, row, torch.tensor(answer.tokens, device=device), 1.0)
                gaps.append((own - torch.tensor(answer.logp, device=device), rounding * coarser))
        reshard(policy)
        differs = how_they_differ(gaps)
        if differs and quantised:
            _log.warning("vLLM's weights are quantised (%s): %s", quantised, differs)
        elif differs:
            kind = type(base).__name__
            if has_adapters(policy):
                layers = {
                    name.partition(".lora_")[0].rpartition(".")[2] for name, _ in policy.named_parameters() if ".lora_" in name
                }
                kind += f" with adapters on {', '.join(sorted(layers))}"
            raise RuntimeError(f"vLLM does not compute {kind} as the policy does: {differs}; write `model.generator: hf`")
        self._unproven, self._proven = self._unproven - 1, self._label

    def _renew(self, policy: nn.Module) -> None:
        self._held, self._syncs = None, self._syncs + 1
        self._label = self._hand_over(policy, f"{self._run}/{self._syncs}/{self.version}")
        self._held = (policy, _changes(policy))

    def _is_current(self, policy: nn.Module) -> bool:
        if self._held is None or self._held[0] is not policy:
            return False
        if self._held[1] != _changes(policy):
            raise RuntimeError(f"the policy was changed after `sync`: vLLM still has the weights of version {self.version}")
        return True

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
        """See :meth:`Generator.generate`; ``logp`` is None where vLLM's are of another distribution than a trainer's.

        Raises:
            ValueError: on prompts without tokens, too few seeds, or a prompt too long for vLLM's context.
            RuntimeError: if the policy was changed after the last :meth:`sync`, an answer is broken off or was written with other
                weights, or log-probabilities are not the policy's: asked after the first three hand-overs.
        """
        check_request(prompts, group_size, seeds)
        context, mode = self._connect(policy, tokenizer, sampling)
        if not self._is_current(policy):
            self._renew(policy)
        if self._unproven and self._proven != self._label:
            self._prove(policy, context)
        for name, row in zip(prompts.ids, prompts.tokens, strict=True):
            if len(row) + sampling.max_new_tokens > context:
                raise ValueError(
                    f"`prompts`: prompt {name!r} has {len(row)} tokens; with `max_new_tokens` = {sampling.max_new_tokens} that "
                    f"exceeds vLLM's context of {context} (`max_model_len`)"
                )
        eos = eos_ids(bare_model(policy), tokenizer)
        params = [sampling_params(sampling, seed=seed, count=group_size, eos=eos) for seed in seeds]
        answers = list[Answer]()

        def answered(row: int, group: list[Answer]) -> None:
            opening = prompt_opening(tokenizer, prompts.tokens[row])
            texts = response_texts(tokenizer, opening, [answer.tokens for answer in group], eos)
            for place, text in enumerate(texts * (group_size // len(group))):
                finished(row, place, text)  # type: ignore[misc]

        told = (answered,) if finished is not None else ()
        for name, (source, group) in zip(prompts.ids, self._ask(prompts.tokens, params, *told), strict=True):
            for answer in group:
                if set(answer.labels) != {self._label}:
                    raise RuntimeError(
                        f"{source} answered prompt {name!r} with weights {', '.join(map(repr, answer.labels)) or 'unknown'}, the last "
                        f"sync wrote {self._label!r}: it was restarted, or somebody else changes its weights; resume the run to write "
                        "them anew"
                    )
                if answer.finished not in ("stop", "length"):
                    raise RuntimeError(f"{source} did not answer prompt {name!r} to the end: {answer.finished!r}")
            answers += group * (group_size // len(group))
        shape, device = (len(prompts), group_size), next(policy.parameters()).device
        lengths = torch.tensor([len(answer.tokens) for answer in answers], dtype=torch.int64)
        tokens = torch.full((len(answers), max(lengths.tolist(), default=0)), min(eos))
        logp = torch.zeros(tokens.shape)
        for number, answer in enumerate(answers):
            tokens[number, : len(answer.tokens)] = torch.tensor(answer.tokens)
            logp[number, : len(answer.tokens)] = torch.tensor(answer.logp)
        has_logp = tells_logp(sampling, mode)
        if not has_logp:
            _say_that_logp_is_missing(sampling, mode)
        return make_rollouts(
            prompts,
            tokenizer,
            tokens.reshape(*shape, tokens.shape[1]).to(device),
            eos=eos,
            lengths=lengths.reshape(shape).to(device),
            logp=logp.reshape(*shape, tokens.shape[1]).to(device) if has_logp else None,
            version=self.version,
        )


def _changes(policy: nn.Module) -> int:
    """Count changes of the weights; 0 for a sharded policy, whose parts do not tell."""
    return 0 if is_sharded(policy) else weights_version(policy)
