"""Where criterion scores come from: a judge over rubrics here; answers, votes and certainties in the files beside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lightning_focal.judges import Judge, JudgeRequest, Outcome, RuleJudge, Verdict, verdicts_to_scores
from lightning_focal.judges.rules.programs import environment_score
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

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        for rubric in self._rubrics(prompts):
            for criterion in rubric.criteria:
                self.judge.validate(criterion)

    def bind(self, answerer: Answerer) -> None:
        """Find out whether the judge is there, before anything expensive starts."""
        self.judge.prepare()

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`; what the judge says of its work becomes ``measures``, ``judge/<name>``."""
        g, rubrics = rollouts.group_size, self._rubrics(rollouts.prompts)
        verdicts = self._judged(rollouts, [(p, i) for p in range(len(rubrics)) for i in range(g)])
        scores = verdicts_to_scores([verdicts[i : i + g] for i in range(0, len(verdicts), g)], rubrics)
        measures = {f"judge/{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.judge.measures().items()}
        return replace(scores, measures=measures) if measures else scores

    def judge_again(self, rollouts: Rollouts, chosen: Tensor) -> Tensor:
        """See :class:`ScoreSource`; the judge is asked once more about the rollouts that were chosen."""
        rubrics, places = self._rubrics(rollouts.prompts), chosen.nonzero().tolist()
        again = torch.full((*chosen.shape, max(map(len, rubrics), default=0)), torch.nan)
        verdicts = self._judged(rollouts, places, repeat=1)
        for (p, i), row in zip(places, verdicts, strict=True):
            scores = verdicts_to_scores([[row]], [rubrics[p]])
            again[p, i, : len(row)] = torch.where(scores.mask, scores.scores, torch.nan)[0, 0]
        return again

    def _judged(self, rollouts: Rollouts, places: Sequence[Sequence[int]], repeat: int = 0) -> list[tuple[Verdict, ...]]:
        """Ask the judge, and an environment for what is its own to say."""
        requests = [replace(self._request(rollouts, p, i), repeat=repeat) for p, i in places]
        given = [[environment_score(c) for c in request.criteria] for request in requests]
        if not any(name is not None for names in given for name in names):
            return self.judge.judge(requests)
        asked = []
        for request, names in zip(requests, given, strict=True):
            criteria = tuple(c for c, name in zip(request.criteria, names, strict=True) if name is None)
            asked += [replace(request, criteria=criteria)] if criteria else []
        answers, verdicts = iter(self.judge.judge(asked)), list[tuple[Verdict, ...]]()
        for (p, i), request, names in zip(places, requests, given, strict=True):
            own = rollouts.own_scores[p][i] if rollouts.own_scores else {}
            judged = iter(next(answers) if None in names else ())
            pairs = zip(request.criteria, names, strict=True)
            verdicts.append(tuple(next(judged) if name is None else _own_verdict(own.get(name), c) for c, name in pairs))
        return verdicts

    def _request(self, rollouts: Rollouts, prompt: int, rollout: int) -> JudgeRequest:
        messages, criteria = rollouts.prompts.messages[prompt], rollouts.prompts.rubrics[prompt].criteria
        return JudgeRequest(tuple(messages), rollouts.texts[prompt][rollout], criteria, rollouts.thinks)

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
