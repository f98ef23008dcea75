"""Dynamic sampling: groups that hold no contrast make room for groups of further prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_focal.functional import varied_groups
from lightning_focal.modules.processes import Processes
from lightning_focal.modules.replay_buffer import Judged, ReplayBuffer, mix
from lightning_focal.types import CriterionScores, Prompts

__all__ = ["DynamicSampling", "GroupSampler", "Sampled", "SparePrompts", "question_levels"]


class SparePrompts(Protocol):
    """What is asked of the loader of training prompts, see :class:`~lightning_focal.data.PromptLoader`."""

    batch_size: int
    take: Callable[[list[int]], Prompts]

    def spare(self, count: int) -> list[int]:
        """Return row numbers of further prompts, the same ones on every process."""


class Sampled(NamedTuple):
    """A training batch.

    Args:
        kept: the groups of the update; replayed rollouts among them.
        rejected: groups that made room, None where no process has any.
        judged: every rollout of this batch, and no other.
        counts: what is logged under ``train/sampling/``, over all processes.
    """

    kept: Judged
    rejected: Judged | None
    judged: Judged
    counts: dict[str, float]


@dataclass(frozen=True)
class DynamicSampling:
    """Refills a training batch from further prompts where groups are uninformative (DAPO, arXiv:2503.14476, by criterion).

    A group is uninformative where no criterion that weighs varies among its rollouts: nothing can be learnt from it, whatever the weights.
    A group whose criteria vary and whose sums tie is kept. The unit is a question: one in two views is kept where either view varies.

    Each round rolls out as many further prompts as places are left. A place that no round fills keeps the group it had, so that every batch
    has as many groups as without. Where no group is uninformative nothing is drawn and nothing changes. Places are numbered over all
    processes: the batch is the same on any number of them.

    Args:
        max_rounds: rounds of generation a batch, the first among them; 1 = no refill. verl's ``max_num_gen_batches`` and SkyRL's
            ``max_sample_batches`` are like it, and stop the run where it is reached.
        replay_buffer_size: prompts that a good rollout is kept for, see :class:`~lightning_focal.modules.replay_buffer.ReplayBuffer`; 0 = off.

    Raises:
        ValueError: for a number out of range.
    """

    max_rounds: int = 4
    replay_buffer_size: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_rounds", 1), ("replay_buffer_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`dynamic_sampling.{name}` must be >= {least}, got {getattr(self, name)}")


class GroupSampler:
    """Does what :class:`DynamicSampling` says.

    Args:
        settings: how often to refill, and how much to keep.
        processes: that train together.

    Attributes:
        buffer: the rollouts that are kept.
    """

    def __init__(self, settings: DynamicSampling, processes: Processes) -> None:
        self.max_rounds, self.processes = settings.max_rounds, processes
        self.buffer = ReplayBuffer(settings.replay_buffer_size)

    def fill(
        self,
        first: Judged,
        judge: Callable[[Prompts], Judged],
        loader: SparePrompts,
        base_weights: Callable[[CriterionScores], Tensor],
    ) -> Sampled:
        """Return the batch that is trained on; every process makes the same calls, also one without prompts.

        Args:
            first: the batch as it came, rolled out and scored.
            judge: rolls out and scores further prompts.
            loader: where they come from.
            base_weights: of the reward strategy: what is above 0 weighs.
        """
        world, rank = self.processes.count, self.processes.rank
        parts, places, count, rounds = [first], _questions(first), len(first.rollouts.prompts), 1
        empty = [place for place, good in enumerate(self._useful(first, base_weights)) if not good]
        while rounds < self.max_rounds:
            marks = torch.zeros(loader.batch_size)
            marks[[place * world + rank for place in empty]] = 1
            wanted = self.processes.sum(marks).nonzero().flatten().tolist()
            rows = loader.spare(len(wanted))
            if not rows:
                break
            rounds += 1
            mine = [(place // world, row) for place, row in zip(wanted, rows, strict=False) if place % world == rank]
            part = judge(loader.take([row for _, row in mine]))
            for (place, _), question, good in zip(mine, _questions(part), self._useful(part, base_weights), strict=True):
                if good:
                    places[place] = [count + row for row in question]
                    empty.remove(place)
            parts, count = [*parts, part], count + len(part.rollouts.prompts)
        everything = joined(parts) if rounds > 1 else first
        order = [
            question[view] for view in range(max(map(len, places), default=0)) for question in places if view < len(question)
        ]
        kept = taken(everything, order) if rounds > 1 else first
        rejected = taken(everything, sorted({*range(count)} - {*order})) if rounds > 1 else None
        if rejected is not None:
            vars(rejected.scores)["measures"] = {}  # of the whole batch: those of `kept` hold them
        base, of_all = base_weights(kept.scores), base_weights(everything.scores)
        found = self.buffer.better(kept, base, _varied(kept, base))
        self.buffer.learn(everything, of_all, _varied(everything, of_all), self.processes)
        counts = self._counts(kept, rejected, found, base_weights)
        if counts["replayed"]:  # on every process, or on none
            kept = mix(kept, found)
        return Sampled(kept, rejected, everything, counts | {"rounds": float(rounds)})

    def _useful(self, judged: Judged, base_weights: Callable[[CriterionScores], Tensor]) -> list[bool]:
        """By question: whether there is something to learn from it."""
        base = base_weights(judged.scores)
        varied = _varied(judged, base)
        good = varied.tolist()
        for row in self.buffer.better(judged, base, varied):
            good[row] = True
        return [any(good[row] for row in question) for question in _questions(judged)]

    def _counts(
        self,
        kept: Judged,
        rejected: Judged | None,
        found: dict[int, Any],
        base_weights: Callable[[CriterionScores], Tensor],
    ) -> dict[str, float]:
        """Sums over all processes, in questions; ``replayed`` in rollouts."""
        varied = _varied(kept, base_weights(kept.scores)).tolist()
        contrast = [any(varied[row] or row in found for row in question) for question in _questions(kept)]
        levels = [] if rejected is None else [*question_levels(rejected, base_weights(rejected.scores)).values()]
        gone = 0 if rejected is None else len(_questions(rejected))
        solved, hopeless = sum(level > 1 - 1e-6 for level in levels), sum(level < 1e-6 for level in levels)
        mine = [len(contrast), sum(contrast), gone, solved, hopeless, len(found)]
        total, good, *others = self.processes.sum(torch.tensor(mine, dtype=torch.float64)).tolist()
        counts = dict(zip(("rejected", "solved", "hopeless", "replayed"), others, strict=True))
        return counts | {"contrastive": good / max(total, 1), "generated": (total + others[0]) / max(total, 1)}


def question_levels(judged: Judged, base: Tensor) -> dict[str, float]:
    """Return the level of each question: the mean reward of its rollouts under base weights ``[P, C]``; none where nothing was judged."""
    prompts, rewards = judged.rollouts.prompts, judged.rewards(base)
    names = prompts.questions or prompts.ids
    levels = {names[rows[0]]: float(rewards[rows].nanmean()) for rows in _questions(judged)}
    return {name: level for name, level in levels.items() if level == level}


def _varied(judged: Judged, base: Tensor) -> Tensor:
    return varied_groups(judged.scores.scores, base, judged.scores.mask)


def _questions(judged: Judged) -> list[list[int]]:
    """Rows of each question, in order."""
    prompts, rows = judged.rollouts.prompts, dict[str, list[int]]()
    for row, name in enumerate(prompts.questions or prompts.ids):
        rows.setdefault(name, []).append(row)
    return list(rows.values())


# -- groups, taken and joined --------------------------------------------------------------------------------------------------


def taken(judged: Judged, index: Sequence[int]) -> Judged:
    """Return some groups, in this order. The measures of a batch belong to no group: they stay."""
    return Judged(*(_taken(part, index) for part in judged))


def _taken(data: Any, index: Sequence[int]) -> Any:
    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[torch.tensor(index, dtype=torch.long, device=value.device)]
        if isinstance(value, tuple):
            return tuple(value[row] for row in index) if value else value
        return _taken(value, index) if isinstance(value, Prompts) else value

    chosen = copy.copy(data)  # checked already
    vars(chosen).update({name: of(value) for name, value in vars(data).items()})
    return chosen


def joined(parts: Sequence[Judged]) -> Judged:
    """Return the groups of several batches as one, padded to the widest; their measures as those of one batch."""
    there = [part for part in parts if len(part.rollouts.prompts)] or parts[:1]
    rollouts, scores = _joined([part.rollouts for part in there]), _joined([part.scores for part in there])
    measures: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, value in part.scores.measures.items():
            measures.setdefault(name, []).append(value.flatten())
    vars(scores)["measures"] = {name: torch.cat(values) for name, values in measures.items()}
    return Judged(rollouts, scores)


def _joined(parts: Sequence[Any]) -> Any:
    whole = copy.copy(parts[0])
    for name in vars(whole):
        values = [getattr(part, name) for part in parts]
        if name == "failed" and not all(one is None for one in values):
            values = [torch.zeros_like(part.mask) if part.failed is None else part.failed for part in parts]
        value = values[0]
        if isinstance(value, Prompts):
            vars(whole)[name] = _joined(values)
        elif any(one is None for one in values):
            vars(whole)[name] = None
        elif isinstance(value, Tensor):
            vars(whole)[name] = _stacked(values, left=name.startswith("prompt_"), empty=torch.nan if name == "repeated" else 0)
        elif isinstance(value, tuple):
            vars(whole)[name] = tuple(entry for one in values for entry in one)
    return whole


def _stacked(values: Sequence[Tensor], left: bool, empty: float) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        lack = [[most - have, 0] if left else [0, most - have] for most, have in zip(shape, value.shape[1:], strict=True)]
        padded.append(torch.nn.functional.pad(value, [size for pair in reversed(lack) for size in pair], value=empty))
    return torch.cat(padded)
