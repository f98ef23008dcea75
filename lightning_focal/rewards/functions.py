"""Reward functions written for TRL as a source of criterion scores."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch

from lightning_focal.rewards.sources import ScoreSource
from lightning_focal.types import CriterionScores, Prompts, Rollouts

__all__ = ["RewardFunctions"]

_GIVEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}


class RewardFunctions(ScoreSource):
    """Reward functions as TRL calls them, each a criterion: ``f(prompts=, completions=, completion_ids=, **columns) -> list[float | None]``.

    They get one entry a rollout: chats, chats of one turn, token ids, and the values of each further column of the data set (a gold answer
    is the column ``answer``). ``trainer_state`` has ``global_step``; what goes to ``log_metric`` is logged as ``stage/<name>``, and
    ``log_extra`` keeps nothing. None is masked.

    Args:
        functions: functions, sync or async, or where to import them from, ``trl.rewards.think_format_reward`` say.
        weights: one a function, all 1 by default; a negative one turns its score round.
        bounds: lowest and highest reward of a function, by its name; ``(0, 1)`` by default.

    Raises:
        ValueError: on what cannot be imported or called, weights or bounds that do not fit, a column that a function needs and the data
            lack; in training, for a reward outside its bounds, or too few.

    >>> def short(completions, most, **columns):
    ...     return [float(len(c[0]["content"]) <= m) for c, m in zip(completions, most)]
    >>> RewardFunctions([short]).level_keys()
    ['short']
    """

    lasting = True

    def __init__(
        self,
        functions: Sequence[str | Callable[..., Any]],
        weights: Sequence[float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        if not functions or len(functions) != len(weights or functions):
            raise ValueError(f"`functions` must hold reward functions, `weights` one for each, got {list(functions)}, {weights}")
        self.functions = [_imported(function) for function in functions]
        self.names = [str(getattr(function, "__name__", type(function).__name__)) for function in self.functions]
        self.weights, self.bounds = weights, bounds
        self._scores(torch.zeros(0, 1, len(functions)))  # names and bounds fit

    def level_keys(self) -> list[str]:
        """The names of the functions."""
        return list(self.names)

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        columns = _columns(prompts).keys()
        for name, function in zip(self.names, self.functions, strict=True):
            asked = inspect.signature(function).parameters.values()
            needed = {p.name for p in asked if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            if missing := needed - _GIVEN - columns:
                raise ValueError(
                    f"the reward function {name!r} needs the columns {sorted(missing)}, the data set has {[*columns]}"
                )

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`."""
        prompts, g = rollouts.prompts, rollouts.group_size
        if not len(prompts):
            return self._scores(torch.zeros(0, g, len(self.functions)))
        measures: dict[str, list[float]] = {}
        tokens = rollouts.response_ids.flatten(0, 1), rollouts.response_mask.flatten(0, 1)
        given: dict[str, Any] = {name: [value for value in row for _ in range(g)] for name, row in _columns(prompts).items()}
        given |= {
            "prompts": [[dict(turn) for turn in chat] for chat in prompts.messages for _ in range(g)],
            "completions": [[{"role": "assistant", "content": text}] for texts in rollouts.texts for text in texts],
            "completion_ids": [ids[mask].tolist() for ids, mask in zip(*tokens, strict=True)],
            "trainer_state": SimpleNamespace(global_step=rollouts.version),
            "log_extra": lambda column, values: None,
            "log_metric": lambda name, value: measures.setdefault(name, []).append(float(value)),
        }
        made = [function(**given) for function in self.functions]
        if any(map(inspect.isawaitable, made)):
            made = self._run(_gathered(made))
        for name, row in zip(self.names, made, strict=True):
            if len(row) != len(prompts) * g:
                raise ValueError(
                    f"the reward function {name!r} must give one reward a completion ({len(prompts) * g}), got {len(row)}"
                )
        rewards = torch.tensor([[torch.nan if reward is None else float(reward) for reward in row] for row in made])
        logged = {name: torch.tensor(values, dtype=torch.float64) for name, values in measures.items()}
        return self._scores(rewards.T.reshape(len(prompts), g, -1), measures=logged)

    def _scores(self, rewards: torch.Tensor, **fields: Any) -> CriterionScores:
        return CriterionScores.of_rewards(rewards, self.names, self.weights, self.bounds, **fields)

    @functools.cached_property
    def _run(self) -> Callable[[Any], Any]:
        thread, runner = ThreadPoolExecutor(1), asyncio.Runner()  # one loop, which clients belong to; beside that of a notebook
        return lambda job: thread.submit(runner.run, job).result()


async def _gathered(made: list[Any]) -> list[Any]:
    done = iter(await asyncio.gather(*filter(inspect.isawaitable, made)))
    return [next(done) if inspect.isawaitable(one) else one for one in made]


def _columns(prompts: Prompts) -> dict[str, list[Any]]:
    answers = prompts.answers or (None,) * len(prompts)
    rows = [{"answer": answer, **row} for answer, row in zip(answers, prompts.extra or ({},) * len(prompts), strict=True)]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _imported(function: str | Callable[..., Any]) -> Any:
    try:
        found = pkgutil.resolve_name(function) if isinstance(function, str) else function
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`functions`: {function!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"`functions` must hold functions or where to import them from, got {function!r}")
    return found
