"""Where criterion scores come from: a judge over rubrics here; answers, votes and certainties in the files beside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lightning_focal.judges import Judge, JudgeRequest, Outcome, RuleJudge, Verdict, verdicts_to_scores
from lightning_focal.judges.rules.programs import environment_score
from lightning_focal.rewards.early import EarlyVerdicts, Place, judged_at_once
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.types import CriterionScores, Prompts, Rollouts

__all__ = ["Answerer", "RubricScores", "ScoreSource"]


class Answerer(Protocol):
    """What a source may ask of the module whose policy wrote the rollouts."""

    group_size: int

    def roll_out(self, prompts: Prompts, stage: str, *, group_size: int | None = None, teacher: bool = False) -> Rollouts:
        """Answer ``prompts`` once more, by the policy or by its teacher; ``stage`` is part of the seeds."""

    def certainty(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Return ``self_certainty`` and ``entropy`` of the policy, ``[P, G]`` means over a response's tokens in nats."""


class ScoreSource(ABC):
    """Scores a batch of rollouts.

    Attributes:
        lasting: a response has its score whatever the rest of the batch and the policy of the day: it can be kept and used again.
    """

    lasting: ClassVar[bool] = False

    def validate(self, prompts: Prompts) -> None:
        """Raise ``ValueError`` for prompts that cannot be scored; called on every split before a model is loaded."""

    def bind(self, answerer: Answerer) -> None:
        """Learn who wrote the rollouts, once a run; most sources have no use for it."""

    def level_keys(self) -> list[str]:
        """Return criterion keys known before training; sources whose keys lie in the data return none."""
        return []

    def begin(
        self, prompts: Prompts, group_size: int, thinks: bool = True, again: Tensor | None = None
    ) -> Callable[[int, int, str], None] | None:
        """Begin a batch that is about to be generated, and return what takes each response once it is whole.

        Args:
            prompts: that will be answered.
            group_size: responses a prompt.
            thinks: thoughts are told from answers.
            again: ``[P, G]`` bool, of which responses :meth:`judge_again` will be asked; None = of none.

        Returns:
            What takes row, place in the group and text; None, as by default, where nothing can be scored before all are there.
        """
        return None

    def end(self) -> None:
        """End the batch that :meth:`begin` began, whether or not it was scored."""

    def describe(self) -> str:
        """Say when its judge judges, for the run's first line; empty, as by default, where there is none."""
        return ""

    @abstractmethod
    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """Return the scores of ``rollouts``; a judgement that failed is masked, never 0."""

    def judge_again(self, rollouts: Rollouts, chosen: Tensor) -> Tensor:
        """Return the scores of a second judgement ``[P, G, C]``, NaN where ``chosen`` (``[P, G]`` bool) is False or it failed.

        Most sources have no use for one; a weighting that wants it is then refused.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot judge rollouts twice")


class RubricScores(ScoreSource):
    """Each prompt's own rubric, judged criterion by criterion.

    Args:
        judge: who judges; the default checks rules and needs no model.
    """

    lasting = True

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge or RuleJudge()
        self._early: EarlyVerdicts | None = None
        self._waits: set[bool] = set()  # whether criteria so far have to wait for the end of generation

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        for rubric in self._rubrics(prompts):
            for criterion in rubric.criteria:
                self.judge.validate(criterion)
                self._waits.add(not self.judge.overlaps(criterion))

    def describe(self) -> str:
        """See :class:`ScoreSource`."""
        when = "behind generation" if True in self._waits else "beside generation"
        return f"judging: {type(self.judge).__name__} {'in part ' if len(self._waits) > 1 else ''}{when}"

    def begin(
        self, prompts: Prompts, group_size: int, thinks: bool = True, again: Tensor | None = None
    ) -> Callable[[int, int, str], None] | None:
        """See :class:`ScoreSource`: responses go to the judge, where it :meth:`~lightning_focal.judges.Judge.overlaps`."""
        rubrics = self._rubrics(prompts)
        if not rubrics or not all(self.judge.overlaps(criterion) for rubric in rubrics for criterion in rubric.criteria):
            return None
        asked = None if again is None else self._asked_again(again).tolist()
        self._early = early = EarlyVerdicts(self.judge, group_size)

        def take(row: int, place: int, text: str) -> None:
            request = JudgeRequest(tuple(prompts.messages[row]), text, rubrics[row].criteria, thinks)
            early.add((row, place, 0), request)
            if asked is not None and asked[row][place]:
                early.add((row, place, 1), replace(request, repeat=1))

        return take

    def end(self) -> None:
        """See :class:`ScoreSource`."""
        early, self._early = self._early, None
        if early is not None:
            early.stop()

    def bind(self, answerer: Answerer) -> None:
        """Find out whether the judge is there, before anything expensive starts."""
        self.judge.prepare()

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`; what the judge says of its work becomes ``measures``, ``judge/<name>``."""
        g, rubrics = rollouts.group_size, self._rubrics(rollouts.prompts)
        places = [(p, i, 0) for p in range(len(rubrics)) for i in range(g)]
        verdicts = list(self._judged(rollouts, places).values())
        scores = verdicts_to_scores([verdicts[i : i + g] for i in range(0, len(verdicts), g)], rubrics)
        measures = {f"judge/{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.judge.measures().items()}
        return replace(scores, measures=measures) if measures else scores

    def judge_again(self, rollouts: Rollouts, chosen: Tensor) -> Tensor:
        """See :class:`ScoreSource`; the judge is asked once more about the rollouts that were chosen."""
        rubrics = self._rubrics(rollouts.prompts)
        again = torch.full((*chosen.shape, max(map(len, rubrics), default=0)), torch.nan)
        verdicts = self._judged(rollouts, [(p, i, 1) for p, i in self._asked_again(chosen).nonzero().tolist()])
        for p, i in chosen.nonzero().tolist():
            row = verdicts[p, i, 1]
            scores = verdicts_to_scores([[row]], [rubrics[p]])
            again[p, i, : len(row)] = torch.where(scores.mask, scores.scores, torch.nan)[0, 0]
        return again

    def _asked_again(self, chosen: Tensor) -> Tensor:
        return chosen.any(1, keepdim=True).expand_as(chosen) if self.judge.whole_groups else chosen

    def _judged(self, rollouts: Rollouts, places: list[Place]) -> dict[Place, tuple[Verdict, ...]]:
        """Verdicts by place: those that were begun beside generation, of what was not, and what an environment scores itself."""
        wanted = {(p, i, repeat): self._request(rollouts, p, i, repeat) for p, i, repeat in places}
        own = [[environment_score(c) for c in rubric.criteria] for rubric in rollouts.prompts.rubrics]
        asked = {}
        for place, request in wanted.items():
            left = tuple(c for c, name in zip(request.criteria, own[place[0]], strict=True) if name is None)
            if left:
                asked[place] = request if len(left) == len(request.criteria) else replace(request, criteria=left)
        found = judged_at_once(self.judge, asked) if self._early is None else self._early.take(asked)
        verdicts = {}
        for (p, i, repeat), request in wanted.items():
            said = rollouts.own_scores[p][i] if rollouts.own_scores else {}
            judged, pairs = iter(found.get((p, i, repeat), ())), zip(request.criteria, own[p], strict=True)
            row = tuple(next(judged) if name is None else _own_verdict(said.get(name), c) for c, name in pairs)
            verdicts[p, i, repeat] = row
        return verdicts

    def _request(self, rollouts: Rollouts, prompt: int, rollout: int, repeat: int) -> JudgeRequest:
        messages, criteria = rollouts.prompts.messages[prompt], rollouts.prompts.rubrics[prompt].criteria
        said = rollouts.trajectories[prompt][rollout] if rollouts.trajectories else ()
        return JudgeRequest(tuple(messages), rollouts.texts[prompt][rollout], criteria, rollouts.thinks, repeat, said)

    def _rubrics(self, prompts: Prompts) -> tuple[Rubric, ...]:
        if len(prompts) and not prompts.rubrics:
            raise ValueError(f"{type(self).__name__} needs prompts with rubrics, got {len(prompts)} prompts without")
        bare = [name for name, rubric in zip(prompts.ids, prompts.rubrics, strict=True) if rubric is None]
        if bare:
            raise ValueError(f"{type(self).__name__} needs a rubric for every prompt, prompts {bare} have none")
        return prompts.rubrics


def _own_verdict(score: float | None, criterion: Criterion) -> Verdict:
    """A score of an environment as a verdict; one that is none, or outside [0, 1], is a failed judgement."""
    if score is None or not 0 <= score <= 1:
        return Verdict(Outcome.ERROR, reason=f"the environment gave {score}")
    return Verdict(Outcome.GRADED, criterion.low + float(score) * (criterion.high - criterion.low), "by the environment")
