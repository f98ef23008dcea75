r"""Scores of the answers that responses state, boxed or behind "answer is": what all such sources share, and gold answers."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_focal.functional import Vote, extract_boxed, majority_vote
from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges import Outcome, Verdict, verdicts_to_scores
from lightning_focal.judges.equivalence import Equivalence, gold_fault
from lightning_focal.judges.written_answers import gold_answer, stated_answer
from lightning_focal.rewards.sources import Answerer, ScoreSource
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.types import CriterionScores, Prompts, Rollouts

__all__ = ["AnswerBatch", "AnswerScores", "EquivalenceKind", "GoldAnswers", "Judged", "shorten", "voting_answer"]

EquivalenceKind = Literal["math", "string"]
"""``math``: equal strings, or equal by math-verify (ours); ``string``: equal strings (the released code of arXiv:2508.00410)."""

Judged = tuple[list[list[Verdict]], Mapping[str, Tensor]]
"""Verdicts ``[P][G]`` on a source's own criterion, and measures."""

_LONGEST_GRADED = 10_000  # characters; nobody's answer, and scorers of others may take very long over it

_log = logging.getLogger(__name__)


def shorten(answer: str, width: int = 40) -> str:
    """Return ``answer`` on one line of at most ``width`` characters, for reasons in words.

    >>> shorten("1 +  1"), shorten("9" * 100, 12)
    ('1 + 1', '99999... (100 characters)')
    """
    line = " ".join(answer[: 4 * width].split())
    return line if len(line) <= width and len(answer) <= 4 * width else f"{line[: width - 7]}... ({len(answer)} characters)"


def voting_answer(text: str) -> str | None:
    r"""Return the answer that a text states, stripped: what votes; None = there is none, or a blank one.

    >>> voting_answer(r"So it is \boxed{ 4 }."), voting_answer(r"\boxed{}")
    ('4', None)
    """
    return (stated_answer(text, guess=False) or "").strip() or None


def _met(met: bool, reason: str) -> Verdict:
    return Verdict(Outcome.MET if met else Outcome.NOT_MET, reason=reason)


class AnswerBatch:
    """Rollouts with their answers, votes and grades, each worked out once.

    Args:
        rollouts: the batch.
        equivalent: whether two answers are one; as mathematics by default.

    Attributes:
        answers: ``[P][G]`` the answers that are stated, as the check ``answer`` reads them, stripped; None = none is stated, or a
            blank one: a last number that nobody calls the answer is no vote. Thoughts are not looked at.
        boxed: ``[P][G]`` whether there is a boxed answer.
    """

    def __init__(self, rollouts: Rollouts, equivalent: Equivalence | None = None) -> None:
        self.rollouts, self.prompts, self.equivalent = rollouts, rollouts.prompts, equivalent or Equivalence()
        self.answers = [[voting_answer(text) for text in texts] for texts in rollouts.answers]
        self.boxed = [[bool((extract_boxed(text) or "").strip()) for text in texts] for texts in rollouts.answers]
        self._grades: dict[tuple[int, str | None], Verdict] = {}

    @cached_property
    def votes(self) -> list[Vote]:
        """``[P]`` majority vote of each group."""
        return [majority_vote(answers, self.equivalent) for answers in self.answers]

    @property
    def voters(self) -> list[int]:
        """``[P]`` number of answers in each group."""
        return [sum(answer is not None for answer in answers) for answers in self.answers]

    def grade(self, row: int, answer: str | None) -> Verdict:
        """Judge an answer to prompt ``row`` by the data's own grader, or else by its gold answer.

        Not applicable where neither is known, an error where the grader fails: never a 0.
        """
        if (row, answer) not in self._grades:
            self._grades[row, answer] = self._grade(row, answer)
        return self._grades[row, answer]

    def right(self, row: int, answer: str | None) -> float:
        """Return 1 for an answer that gold calls fully right, else 0; NaN where gold is not known."""
        verdict = self.grade(row, answer)
        return float(verdict.outcome is Outcome.MET or (verdict.value or 0.0) >= 1.0) if verdict.judged else math.nan

    @property
    def failures(self) -> list[str]:
        """What graders failed on so far, in words: one entry a prompt and answer."""
        failed = ((row, verdict) for (row, _), verdict in self._grades.items() if verdict.outcome is Outcome.ERROR)
        return [f"prompt {self.prompts.ids[row]!r}, {verdict.reason}" for row, verdict in failed]

    def _grade(self, row: int, answer: str | None) -> Verdict:
        grader = self.prompts.graders[row] if self.prompts.graders else None
        gold = (self.prompts.answers[row] if self.prompts.answers else None) or ""
        gold = gold_answer(gold)
        if grader is None and not gold:
            return Verdict(Outcome.NOT_APPLICABLE, reason="no gold answer is known")
        said = "no answer" if answer is None else f"answer {shorten(answer)}"
        reason = f"{said}, gold {shorten(gold)}" if gold else said
        if grader is None:
            return _met(answer is not None and self.equivalent(gold, answer), reason)
        if answer is not None and len(answer) > _LONGEST_GRADED:
            return _met(False, f"{reason}: too long to be graded")
        try:
            grade = float(grader(answer))
        except Exception as error:  # a scorer of others must not end the run
            failure = f"{type(error).__name__}: {shorten(str(error), 80)}"
            return Verdict(Outcome.ERROR, reason=f"{reason}: the grader failed ({failure})")
        if not 0 <= grade <= 1:
            return Verdict(Outcome.ERROR, reason=f"{reason}: the grader must return a number in [0, 1], got {grade}")
        if grade in (0.0, 1.0):
            return _met(grade == 1.0, reason)
        return Verdict(Outcome.GRADED, grade, f"{reason}, graded {grade:.3g}")

    def measures(self) -> dict[str, Tensor]:
        """Return what is watched whatever the reward is made of; NaN = gold is not known, or there is no vote."""
        return {
            **self.vote_measures(self.votes),
            "vote/unanswered": torch.tensor([[float(a is None) for a in answers] for answers in self.answers]),
            "answer/accuracy": torch.tensor([[self.right(p, a) for a in answers] for p, answers in enumerate(self.answers)]),
        }

    def vote_measures(self, votes: Sequence[Vote]) -> dict[str, Tensor]:
        """Return share, number of distinct answers, absence and accuracy of the labels ``votes`` ``[P]``."""
        rows = [
            (math.nan, math.nan, 1.0, math.nan) if v.label is None else (v.share, float(v.distinct), 0.0, self.right(p, v.label))
            for p, v in enumerate(votes)
        ]
        names = ("vote/share", "vote/distinct", "vote/no_label", "vote/accuracy")
        return dict(zip(names, torch.tensor(rows).reshape(-1, len(names)).unbind(1), strict=True))


class AnswerScores(ScoreSource):
    r"""Scores of extracted answers: one criterion of the source's own, and by choice ``format`` and ``length``.

    The first criterion weighs 1, the others what is given; prior weights are these, made to sum to 1. ``format`` is met by a
    response with a boxed answer, ``length`` by one that ended before the length limit.

    Args:
        equivalence: when two answers are one: ``math`` or ``string``, see
            :class:`~lightning_focal.judges.equivalence.Equivalence`.
        format: weight of the criterion ``format``; 0 = without it.
        length: weight of the criterion ``length``; 0 = without it.

    Attributes:
        criterion: name of the source's own criterion.

    Raises:
        ValueError: for a weight that is negative or not finite, or an unknown equivalence.
    """

    criterion: ClassVar[str]
    description: ClassVar[str]

    def __init__(self, equivalence: EquivalenceKind = "math", format: float = 0.0, length: float = 0.0) -> None:
        for name, weight in (("format", format), ("length", length)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"`{name}` must be a weight >= 0 (the source's own criterion weighs 1), got {weight}")
        expect_choice("equivalence", equivalence, ("math", "string"))
        self.kind: EquivalenceKind = equivalence
        self.equivalence = Equivalence(equivalence)
        criteria = [Criterion(self.criterion, self.description)]
        if format:
            criteria.append(Criterion("format", "The final answer is boxed.", format))
        if length:
            criteria.append(Criterion("length", "The response ends before the length limit.", length))
        self.rubric = Rubric(tuple(criteria))
        self._answerer: Answerer | None = None

    def bind(self, answerer: Answerer) -> None:
        """See :class:`ScoreSource`."""
        self._answerer = answerer

    @property
    def answerer(self) -> Answerer:
        """The module whose policy is trained; ``RuntimeError`` before :meth:`bind`."""
        if self._answerer is None:
            raise RuntimeError(f"{type(self).__name__} asks the policy, and knows none yet: a strategy's `setup` binds it")
        return self._answerer

    def level_keys(self) -> list[str]:
        """See :class:`ScoreSource`."""
        return list(self.rubric.names)

    @abstractmethod
    def judge(self, batch: AnswerBatch) -> Judged:
        """Return verdicts ``[P][G]`` on the source's own criterion, and measures besides or in place of the batch's."""

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`."""
        self.equivalence.clear()
        batch = AnswerBatch(rollouts, self.equivalence)
        own, measures = self.judge(batch)
        groups = zip(own, batch.boxed, rollouts.truncated.tolist(), strict=True)
        verdicts = [[(v, *self._form(boxed, cut)) for v, boxed, cut in zip(*group, strict=True)] for group in groups]
        scores = verdicts_to_scores(verdicts, [self.rubric] * len(rollouts.prompts))
        return replace(scores, measures=batch.measures() | dict(measures))

    def _form(self, boxed: bool, cut: bool) -> tuple[Verdict, ...]:
        """Verdicts on ``format`` and ``length``, as far as they are asked for."""
        verdicts = {
            "format": _met(boxed, "boxed answer" if boxed else "no boxed answer"),
            "length": _met(not cut, "cut off by the length limit" if cut else "ended by itself"),
        }
        return tuple(verdicts[name] for name in self.rubric.names[1:])


class GoldAnswers(AnswerScores):
    """Whether the answer is right: by the data's own grader where there is one, else equal to the gold answer.

    A prompt of which neither is known is masked. The measures ``vote/...`` are those of the group's own vote:
    ``vote/accuracy`` is the accuracy of the majority.

    Args:
        unknown: what to do with prompts of which nothing is known: ``error`` stops, ``warn`` says so once.
        **kwargs: see :class:`AnswerScores`.
    """

    criterion: ClassVar[str] = "correct"
    description: ClassVar[str] = "The answer is right."
    lasting = True

    def __init__(self, unknown: Literal["error", "warn"] = "error", **kwargs: Any) -> None:
        expect_choice("unknown", unknown, ("error", "warn"))
        super().__init__(**kwargs)
        self.unknown = unknown
        self._warned = False

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        answers, graders = prompts.answers or (None,) * len(prompts), prompts.graders or (None,) * len(prompts)
        for name, answer, grader in zip(prompts.ids, answers, graders, strict=True):
            if grader is None and answer and (fault := gold_fault(answer)):
                raise ValueError(f"prompt {name!r}: the gold answer must be an answer, got {answer!r}, which is {fault}")
        known = [grader is not None or bool((answer or "").strip()) for answer, grader in zip(answers, graders, strict=True)]
        if all(known):
            return
        message = (
            f"{known.count(False)} of {len(prompts)} prompts have no gold answer (first: {prompts.ids[known.index(False)]!r}), "
            f"and {type(self).__name__} needs one"
        )
        if self.unknown == "error" and not any(known):
            raise ValueError(
                f"{message}: give the data its answers, or train without labels (CoRewardingI, CoRewardingII, MajorityVoteReward, ...)"
            )
        if not self._warned:
            self._warned = True
            _log.warning("%s: they are left out of `correct`, never counted as wrong", message)

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        return [[batch.grade(row, answer) for answer in answers] for row, answers in enumerate(batch.answers)], {}
