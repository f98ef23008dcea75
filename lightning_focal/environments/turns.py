"""Rollouts of several turns: any generator, called once a turn for the episodes that go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.environments.base import Environment, Episode, Task
from lightning_focal.environments.calls import Call, call_reader
from lightning_focal.environments.speech import Speech
from lightning_focal.environments.tools import Tools
from lightning_focal.generation import Generator, Sampling
from lightning_focal.generation.assemble import check_request, eos_ids, left_pad
from lightning_focal.models.rows import context_length
from lightning_focal.models.weights import bare_model
from lightning_focal.seeds import prompt_seed
from lightning_focal.thoughts import split_thought
from lightning_focal.types import Message, Prompts, Rollouts

__all__ = ["TurnRollouts"]

_log = logging.getLogger(__name__)


@dataclass
class _Path:
    """One rollout as far as it has come; ``tokens`` and what stands beside them are those behind the prompt."""

    row: int
    place: int
    episode: Episode
    said: list[Message] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    text: str = ""
    thought_tokens: int = 0
    turns: int = 0
    truncated: bool = False
    failed: bool = False
    done: bool = False


class TurnRollouts:
    """Lets a generator and an environment take turns.

    A rollout is the prompt, then tokens of the policy and of the environment by turns; those of the policy stay as they were sampled. Its
    first turn is what the generator writes without an environment. What is drawn in a later one depends on the prompt's seed, the place
    in the group and the number of the turn alone. A turn that the length limit cuts off ends its rollout.

    Args:
        environment: whose episodes they are.
        generator: who writes the policy's turns.
        anywhere: says whether something holds on any process; all take as many turns, those that are done without a prompt.

    >>> from lightning_focal.environments import Dialogue
    >>> from lightning_focal.generation import HFGenerator
    >>> TurnRollouts(Dialogue(max_turns=3), HFGenerator()).describe()
    'environment: Dialogue, at most 3 turns'
    """

    def __init__(
        self, environment: Environment, generator: Generator, anywhere: Callable[[bool], bool] = lambda here: here
    ) -> None:
        self.environment, self.generator, self.tools = environment, generator, Tools(environment)
        self._anywhere = anywhere
        environment.reader = None

    def start(self, tokenizer: Any, generation_config: Any) -> None:
        """Find out, before any weight is read, whether the chat template can be used.

        Raises:
            ValueError: if not; see :func:`~lightning_focal.environments.calls.call_reader`.
        """
        owner = type("Owner", (), {"generation_config": generation_config})
        speech = Speech(tokenizer, eos_ids(owner, tokenizer), self.tools.schemas)
        self._read_calls(tokenizer)
        speech.check("tool" if self.tools.schemas else "user")

    def _read_calls(self, tokenizer: Any) -> None:
        self.environment.reader = call_reader(tokenizer, self.tools.schemas) if self.tools.schemas else None

    def describe(self) -> str:
        """Say which environment it is, and how calls are read, for the run's first line."""
        reader = self.environment.reader
        calls = f", calls read as {reader.name}" if reader else ""
        return f"environment: {type(self.environment).__name__}, at most {self.environment.max_turns} turns{calls}"

    def close(self) -> None:
        """End the process of the tools."""
        self.tools.close()

    def generate(
        self, policy: nn.Module, tokenizer: Any, prompts: Prompts, *, group_size: int, seeds: Sequence[int], sampling: Sampling
    ) -> Rollouts:
        """Roll out; arguments as for :meth:`Generator.generate`, ``prompts.tokens`` are made anew, with tools and opening.

        Returns:
            Rollouts with ``sampled_mask``, ``trajectories`` and ``own_scores``; ``texts`` are the last turns, without calls.
        """
        check_request(prompts, group_size, seeds)
        eos = eos_ids(bare_model(policy), tokenizer)
        speech = Speech(tokenizer, eos, self.tools.schemas)
        if self.environment.reader is None:
            self._read_calls(tokenizer)
        paths = [
            _Path(row, g, self.environment.reset(task))
            for row, task in enumerate(_tasks(prompts, seeds))
            for g in range(group_size)
        ]
        messages = []
        for row, chat in enumerate(prompts.messages):
            openings = [[dict(m) for m in path.episode.opening()] for path in paths[row * group_size : (row + 1) * group_size]]
            if any(opening != openings[0] for opening in openings):
                raise ValueError(
                    f"the environment opened prompt {prompts.ids[row]!r} in different ways: a group shares its prompt"
                )
            messages.append((*chat, *openings[0]))
        prompts = replace(prompts, messages=tuple(messages), tokens=tuple(map(speech.encode, messages)))
        room = [self._room(policy, len(tokens)) for tokens in prompts.tokens]
        first = self.generator.generate(policy, tokenizer, prompts, group_size=group_size, seeds=seeds, sampling=sampling)
        wrote, has_logp = first, first.logp is not None
        going = paths
        while True:
            self._take(going, wrote, tokenizer, eos)
            calls = [self._calls(path) for path in going]
            asked = [(call, path.episode) for path, own in zip(going, calls, strict=True) for call in own]
            answers = iter(self.tools.answers(asked))
            for path, own in zip(going, calls, strict=True):
                said = [speech.harmless(next(answers)) for _ in own]
                self._answer(path, said, prompts, speech, room[path.row] - sampling.max_new_tokens)
            going = [path for path in going if not path.done]
            if not self._anywhere(bool(going)):
                break
            wrote = self._next_turn(policy, tokenizer, prompts, going, seeds, sampling)
            has_logp = has_logp and wrote.logp is not None
        return self._assembled(first, prompts, paths, group_size, tokenizer, eos, has_logp)

    def _room(self, policy: nn.Module, prompt: int) -> int:
        """Tokens that may follow a prompt."""
        context = context_length(bare_model(policy))
        limits = [self.environment.max_tokens, None if context is None else context - prompt]
        return min([limit for limit in limits if limit is not None], default=10**9)

    def _next_turn(
        self,
        policy: nn.Module,
        tokenizer: Any,
        prompts: Prompts,
        going: Sequence[_Path],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> Rollouts:
        names = [f"{prompts.ids[path.row]}/{path.place}/{path.turns}" for path in going]
        asked = Prompts(
            ids=tuple(names),
            messages=tuple(prompts.messages[path.row] for path in going),
            tokens=tuple((*prompts.tokens[path.row], *path.tokens) for path in going),
        )
        drawn = [prompt_seed(seeds[path.row], "turn", path.turns, str(path.place)) for path in going]
        return self.generator.generate(policy, tokenizer, asked, group_size=1, seeds=drawn, sampling=sampling)

    def _take(self, going: Sequence[_Path], wrote: Rollouts, tokenizer: Any, eos: frozenset[int]) -> None:
        """Add what the policy wrote, a row of ``wrote`` for each path."""
        ids, mask = wrote.response_ids.flatten(0, 1).cpu(), wrote.response_mask.flatten(0, 1).cpu()
        logp = torch.zeros(ids.shape) if wrote.logp is None else wrote.logp.flatten(0, 1).cpu()
        thoughts = torch.zeros(len(ids)) if wrote.thought_tokens is None else wrote.thought_tokens.flatten().cpu()
        texts = [(text, wrote.openings[row] if wrote.openings else "") for row, group in enumerate(wrote.texts) for text in group]
        for n, path in enumerate(going):
            new = ids[n][mask[n]].tolist()
            path.tokens += new
            path.sampled += [True] * len(new)
            path.logp += logp[n][mask[n]].tolist()
            path.truncated = bool(wrote.truncated.flatten()[n])
            path.thought_tokens += int(thoughts[n])
            path.turns += 1
            path.text, opening = texts[n]
            raw = tokenizer.decode(
                [i for i in new if i not in eos], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            path.said.append({"role": "assistant", "content": f"{opening}{raw}"})

    def _calls(self, path: _Path) -> list[Call]:
        """Read what the policy called; none where its turn is the last."""
        answer, calls = split_thought(path.said[-1]["content"]).answer, list[Call]()
        reader = self.environment.reader
        if reader is not None and (calls := reader.read(answer)):
            path.text = reader.plain(answer).strip()
        path.done = path.truncated or path.turns >= self.environment.max_turns
        return [] if path.done else calls

    def _answer(self, path: _Path, said: Sequence[Message], prompts: Prompts, speech: Speech, room: int) -> None:
        """Add what tools said, ask the environment, and add the tokens of both, or end the rollout."""
        if path.done:
            return
        path.said += said
        try:
            more = path.episode.step(tuple(path.said))
        except Exception as error:  # an environment's mistake costs this rollout's scores, not the run
            _log.warning("the environment failed in a step of %r: %s: %s", prompts.ids[path.row], type(error).__name__, error)
            path.done = path.failed = True
            return
        more = None if more is None else [speech.harmless(message) for message in more]
        path.done = more is None or not (said or more)
        if path.done:
            return
        path.said += more or ()
        tokens = speech.between(prompts.messages[path.row], [*said, *(more or ())])
        if len(path.tokens) + len(tokens) > room:
            path.done = path.truncated = True
            return
        path.tokens += tokens
        path.sampled += [False] * len(tokens)
        path.logp += [0.0] * len(tokens)

    def _scores(self, path: _Path) -> dict[str, float | None]:
        try:
            found = {} if path.failed else dict(path.episode.scores(tuple(path.said)))
        except Exception as error:  # a failed judgement is a mask
            _log.warning("the environment failed to score: %s: %s", type(error).__name__, error)
            found = {}
        return {name: found.get(name) for name in self.environment.score_names}

    def _assembled(
        self,
        first: Rollouts,
        prompts: Prompts,
        paths: Sequence[_Path],
        group: int,
        tokenizer: Any,
        eos: frozenset[int],
        has_logp: bool,
    ) -> Rollouts:
        device, pad = first.response_ids.device, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(eos)
        width, p = max((len(path.tokens) for path in paths), default=1), len(prompts)

        def rows(name: str, empty: Any, dtype: torch.dtype) -> Tensor:
            values = [[*getattr(path, name), *[empty] * (width - len(path.tokens))] for path in paths]
            return torch.tensor(values, dtype=dtype, device=device).reshape(p, group, width)

        def each(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(path, name) for path in paths], dtype=dtype, device=device).reshape(p, group)

        def groups(values: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
            return tuple(tuple(values[i : i + group]) for i in range(0, len(values), group))

        lengths = torch.tensor([len(path.tokens) for path in paths], device=device).reshape(p, group, 1)
        prompt_ids, prompt_mask = left_pad(prompts.tokens, pad)
        return Rollouts(
            prompts=prompts,
            texts=groups([path.text for path in paths]),
            prompt_ids=prompt_ids.to(device),
            prompt_mask=prompt_mask.to(device),
            response_ids=rows("tokens", pad, torch.int64),
            response_mask=torch.arange(width, device=device) < lengths,
            truncated=each("truncated", torch.bool),
            logp=rows("logp", 0.0, torch.float32) if has_logp else None,
            version=first.version,
            thought_tokens=each("thought_tokens", torch.int64) if first.thought_tokens is not None else None,
            openings=first.openings,
            sampled_mask=rows("sampled", False, torch.bool),
            trajectories=groups([tuple(path.said) for path in paths]),
            own_scores=groups([self._scores(path) for path in paths]),
            episodes=groups([path.episode for path in paths]),
        )


def _tasks(prompts: Prompts, seeds: Sequence[int]) -> list[Task]:
    answers, extra = prompts.answers or (None,) * len(prompts), prompts.extra or ({},) * len(prompts)
    rows = zip(prompts.ids, prompts.messages, answers, extra, seeds, strict=True)
    return [Task(name, messages, answer, columns, int(seed)) for name, messages, answer, columns, seed in rows]
