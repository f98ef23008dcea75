"""Environments of verifiers 0.4 as data and criteria here, and a strategy of this package over a group of verifiers' traces."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import groupby
from typing import Any

import torch

from lightning_focal.data.module import PromptDataModule
from lightning_focal.integrations.columns import Bounds, ShapedColumns, named_scores, shape_columns
from lightning_focal.integrations.verifiers_turns import TurnsEpisode, VerifiersTurns, new_trace, run_hook, verifiers
from lightning_focal.rewards import RewardStrategy, ScoreSource
from lightning_focal.types import CriterionScores, Message, Prompts, Rollouts

__all__ = ["EnvironmentData", "EnvironmentScores", "reweigh"]


@dataclass(frozen=True)
class _Row:
    id: str
    messages: tuple[Message, ...]
    task: Any
    played_by: str | None


class EnvironmentData(PromptDataModule):
    """Tasks of an environment of verifiers as prompts; :class:`EnvironmentScores` scores them.

    Those of an environment with tools, or with a ``run`` of its own, take several turns, with
    :class:`~lightning_focal.integrations.verifiers_turns.VerifiersTurns` as ``model.environment``.

    Args:
        environment: its id, of an installed package: ``reverse-text``, say.
        train: the taskset's own settings for training; with ``select``, verifiers' choice of tasks (``include``, ``skip``, ``limit``, ...).
        val: the same for held-out tasks; None = none.
        test: the same for ``lightning_focal test``; ``val`` by default.
        predict: the same for ``lightning_focal predict``; ``val`` by default.
        **kwargs: of :class:`~lightning_focal.data.PromptDataModule`.
    """

    unit = "tasks"

    def __init__(
        self,
        environment: str,
        train: dict[str, Any] | None = None,
        val: dict[str, Any] | None = None,
        test: dict[str, Any] | None = None,
        predict: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.environment = environment
        self.settings = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self.files = {split: None if given is None else environment for split, given in self.settings.items()}
        self.expect_files()

    def read_split(self, split: str, path: str) -> list[_Row]:
        """Load the environment and take its tasks.

        Raises:
            ValueError: for an environment that is not installed, takes other settings, or has no end.
        """
        vf = verifiers()
        settings = dict(self.settings[split] or {})
        select = settings.pop("select", {})
        try:
            env = vf.load_environment(vf.resolve_env_config({"taskset": {"id": path, **settings}}))
            taskset = env.taskset.select(vf.SelectConfig.model_validate(select))
        except Exception as error:  # an environment's own code may raise anything
            line = " ".join(str(error).split())[:300]
            raise ValueError(
                f"`data.{split}`: the environment {path!r} cannot be loaded: {type(error).__name__}: {line}"
            ) from error
        tools = env.taskset.toolsets(env.taskset.config) or type(env.taskset).task_type().toolsets(env.taskset.config.task)
        played_by = VerifiersTurns.__name__ if tools or type(env).run is not vf.SingleAgentEnv.run else None
        if not taskset.bounded:
            raise ValueError(f"`data.{split}`: {path!r} has no last task; write `data.{split}.select.limit`")
        rows = [_Row(f"{path}/{split}/{task.data.idx}", _messages(task, split, played_by), task, played_by) for task in taskset]
        if not rows:
            raise ValueError(f"`data.{split}`: the environment {path!r} has no task with these settings")
        return rows

    def make_prompts(self, split: str, rows: Sequence[_Row]) -> Prompts:
        """Make a batch of tasks; ``extra`` holds each task itself."""
        extra = tuple({"task": row.task, "played_by": row.played_by} for row in rows)
        messages = tuple(row.messages for row in rows)
        return Prompts(tuple(row.id for row in rows), messages, extra=extra)


def _messages(task: Any, split: str, played_by: str | None) -> tuple[Message, ...]:
    vf = verifiers()
    data = task.data
    turns = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else list(data.prompt or ())
    if data.system_prompt:
        turns.insert(0, vf.SystemMessage(content=data.system_prompt))
    if data.prompt is None and played_by and not turns:
        raise ValueError(
            f"`data.{split}`: task {data.idx} has neither a prompt nor a system prompt: write `data.{split}.system_prompt: FILE`"
        )
    opened = data.prompt is None and played_by  # the environment speaks first
    if not turns or (turns[-1].role != "user" and not opened) or any(not isinstance(turn.content, str) for turn in turns):
        raise ValueError(f"`data.{split}`: task {data.idx} must have a prompt of text that ends with the user's turn")
    return tuple({"role": turn.role, "content": turn.content} for turn in turns)


class EnvironmentScores(ScoreSource):
    """The rewards of a task of verifiers, each a criterion, and its metrics beside them (``verifiers/<name>``).

    Base weights are those of the environment; a weight below 0 makes a fault, whose score is turned round. A task that fails to score a
    response, or gives no number, has failed to judge it.

    Args:
        bounds: by reward the lowest and highest score, (0, 1) by default.
        runtime: what rewards that run programs run them in, verifiers' own words: ``{type: subprocess}``, say. One a response.
        concurrency: responses scored at once.
        names: of rewards that the task does not name itself: keys of a reward that is a mapping, and what an environment of several
            turns records in ``run`` or ``finalize``.
    """

    def __init__(
        self,
        bounds: dict[str, tuple[float, float]] | None = None,
        runtime: dict[str, Any] | None = None,
        concurrency: int = 16,
        names: list[str] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"`concurrency` must be >= 1, got {concurrency}")
        self.bounds, self.concurrency, self.names = bounds or {}, concurrency, list(names or ())
        self.runtime = verifiers().AgentConfig.model_validate({"runtime": runtime}).runtime if runtime else None

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        for task in self._tasks(prompts):
            rewards = task.hooks("reward")
            for fn in rewards if self.runtime is None else ():
                parameter = inspect.signature(fn).parameters.get("runtime")
                if parameter is not None and parameter.default is parameter.empty:
                    raise ValueError(
                        f"the reward {fn.__name__!r} runs a program: write `reward.source.runtime: {{type: subprocess}}`"
                    )
            self.names = list(dict.fromkeys([*self.names, *_names(task, "reward")]))

    def level_keys(self) -> list[str]:
        """See :class:`ScoreSource`; names of keyed rewards that were not given are known after the first response alone."""
        return self.names

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`."""
        tasks = self._tasks(rollouts.prompts)
        turns = rollouts.trajectories is not None
        traces = self._played(rollouts) if turns else asyncio.run(self._score([*self._traces(rollouts, tasks)]))
        groups = [traces[i : i + rollouts.group_size] for i in range(0, len(traces), rollouts.group_size)]
        weights = [
            _weights(group) or dict.fromkeys(_names(task, "reward") or ["reward"], 1.0)
            for task, group in zip(tasks, groups, strict=True)
        ]
        unknown = sorted({name for row in weights for name in row} - {*self.names}) if turns and self.names else []
        if unknown:
            raise ValueError(f"the environment gives rewards that its tasks do not name: write `reward.source.names: {unknown}`")
        reasons = [[" ".join(t.errors[-1].message.split())[:200] if t.errors else "" for t in group] for group in groups]
        scores = named_scores([[*map(_given, group)] for group in groups], weights, self.bounds, reasons)
        measures = {}
        for name in sorted({name for task in tasks for name in _names(task, "metric")}):
            values = [[math.nan if (value := t.metrics.get(name)) is None else value for t in group] for group in groups]
            measures[f"verifiers/{name}"] = torch.tensor(values, dtype=torch.float64)
        return replace(scores, measures=measures)

    def _tasks(self, prompts: Prompts) -> list[Any]:
        vf = verifiers()
        tasks = [extra.get("task") for extra in prompts.extra] if prompts.extra else [None] * len(prompts)
        if not all(isinstance(task, vf.Task) for task in tasks):
            raise ValueError(f"{type(self).__name__} scores tasks of verifiers: write `data: EnvironmentData`")
        return tasks

    def _traces(self, rollouts: Rollouts, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Each response as the trace that verifiers would have recorded of one turn, and its task."""
        vf = verifiers()
        lengths, prompt_lengths = rollouts.lengths.tolist(), rollouts.prompt_mask.sum(-1).tolist()
        for p, task in enumerate(tasks):
            for g, response in enumerate(rollouts.responses[p]):
                trace = new_trace(task, rollouts.prompts.messages[p])
                said, place = vf.AssistantMessage(content=response.answer, reasoning_content=response.thought), len(trace.nodes)
                trace.nodes.append(vf.MessageNode(parent=place - 1, message=said, sampled=True))
                usage = vf.Usage(prompt_tokens=prompt_lengths[p], completion_tokens=lengths[p][g])
                reason = "length" if rollouts.truncated[p, g] else "stop"
                trace.calls.append(vf.ModelCall(node=place, finish_reason=reason, usage=usage))
                trace.stop("single_turn")
                yield task, trace

    def _played(self, rollouts: Rollouts) -> list[Any]:
        """The traces of episodes of several turns, once verifiers' own code has come to its end with each."""
        episodes = [episode for group in rollouts.episodes for episode in group]
        if not all(isinstance(episode, TurnsEpisode) for episode in episodes):
            raise ValueError(f"{type(self).__name__} scores turns of verifiers: write `model.environment: VerifiersTurns`")
        said = [path for group in rollouts.trajectories or () for path in group]
        cut, before = rollouts.truncated.flatten().tolist(), rollouts.prompt_mask.sum(-1).tolist()
        drawn, gate = rollouts.sampled.flatten(0, 1).cpu(), asyncio.Semaphore(self.concurrency)

        async def finish(i: int) -> Any:
            usage = [(before[i // rollouts.group_size] + start, length) for start, length in _runs(drawn[i].tolist())]
            async with gate:
                try:
                    await episodes[i].finish(said[i], usage, cut[i], self._rate_turns)
                except Exception as error:  # an environment of others must not end the run
                    episodes[i].trace.record_error(error)
            return episodes[i].trace

        async def every() -> list[Any]:
            return list(await asyncio.gather(*map(finish, range(len(episodes)))))

        return episodes[0].environment.wait(every()) if episodes else []

    async def _rate_turns(self, task: Any, trace: Any) -> None:
        if self.runtime is None:
            await run_hook(task, "finalize", trace)
        await self._rate(task, trace, ("finalize",))

    async def _rate(self, task: Any, trace: Any, hooks: Sequence[str] = ("setup", "finalize")) -> None:
        if self.runtime is None:
            await task.score(trace)
            return
        provision = import_module("verifiers.v1.runtimes").provision_runtime
        async with provision(self.runtime, env=task.runtime_env()) as runtime:
            for hook in (getattr(task, name) for name in hooks):
                known, wanted = {"trace": trace, "runtime": runtime}, inspect.signature(hook).parameters
                await hook(**{name: value for name, value in known.items() if name in wanted})
            await task.score(trace, runtime)

    async def _score(self, jobs: Sequence[tuple[Any, Any]]) -> list[Any]:
        gate = asyncio.Semaphore(self.concurrency)

        async def score(task: Any, trace: Any) -> Any:
            async with gate:
                try:
                    await self._rate(task, trace)
                except Exception as error:  # a scorer of others must not end the run
                    trace.record_error(error)
            return trace

        return list(await asyncio.gather(*(score(task, trace) for task, trace in jobs)))


def _runs(mask: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Where each run of True begins, and its length."""
    start = 0
    for here, run in groupby(mask):
        length = len(list(run))
        if here:
            yield start, length
        start += length


def _names(task: Any, kind: str) -> list[str]:
    return [fn.__name__ for fn in task.hooks(kind)]


def _given(trace: Any) -> dict[str, float | None]:
    return {name: None if reward is None else reward.score for name, reward in trace.rewards.items()}


def _weights(traces: Sequence[Any]) -> dict[str, float]:
    """By name the weights of a group's rewards, of those that were scored; keyed rewards stand under their keys."""
    found = {name: reward.weight for trace in traces for name, reward in trace.rewards.items() if reward is not None}
    return {name: weight for name, weight in found.items() if weight}


def reweigh(traces: Sequence[Any], strategy: RewardStrategy, bounds: Bounds | None = None) -> ShapedColumns:
    """Give a group of verifiers' traces, all of one task, the reward of a strategy: ``trace.reward`` is it from then on.

    Call it where the whole group is at hand: in ``Env.finalize`` of an environment with siblings (``best-of-n``), or in ``score_group`` of
    an algorithm of prime-rl. Each reward keeps its score and gets the weight 0; a reward ``focal`` carries the sum. The metrics get
    ``weight/<name>`` and ``saturation/<name>``. With static weights ``trace.reward`` stays what it was.

    Args:
        traces: ``[N]`` scored traces; a reward that is None was not judged.
        strategy: with any weighting.
        bounds: by reward the lowest and highest score, (0, 1) by default.

    Returns:
        Rewards, advantages, weights and saturation.

    Raises:
        ValueError: for traces without rewards or that were reweighed before, or a score out of its bounds.
    """
    weights = _weights(traces)
    if not weights or "focal" in weights:
        raise ValueError(f"`traces` must have rewards, and none named 'focal', which this adds; got {[*weights]}")
    rows = [_given(trace) for trace in traces]
    spans = {name: pair for name, pair in (bounds or {}).items() if name in weights}
    shaped = shape_columns(strategy, rows, [0] * len(traces), weights, spans)
    for i, trace in enumerate(traces):
        for k, name in enumerate(weights):
            if (score := rows[i].get(name)) is not None:
                trace.record_reward(name, score, 0.0)
            trace.record_metrics(
                {f"weight/{name}": float(shaped.weights[i, k]), f"saturation/{name}": float(shaped.saturation[i, k])}
            )
        trace.record_reward("focal", float(shaped.rewards[i]))
    return shaped
