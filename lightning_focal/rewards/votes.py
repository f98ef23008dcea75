"""Labels by vote: of the group itself, of the other wording's group, of a teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_focal.functional import Vote
from lightning_focal.judges import Outcome, Verdict
from lightning_focal.rewards.answers import AnswerBatch, AnswerScores, Judged, shorten
from lightning_focal.types import Prompts

__all__ = ["OwnVotes", "PairVotes", "TeacherVotes"]


class VotedScores(AnswerScores):
    """1 for an answer that equals the label its group was given, 0 for another one or none.

    A group without a label has nothing to be compared with: its entries are masked, never 0 (ours; the released code of
    arXiv:2508.00410 divides by zero there).
    """

    criterion: ClassVar[str] = "agreement"
    description: ClassVar[str] = "The answer is the one that was voted for."
    voters: ClassVar[str] = ""

    def agreement(self, batch: AnswerBatch, votes: Sequence[Vote], sizes: Sequence[int]) -> list[list[Verdict]]:
        """Return verdicts ``[P][G]``: the batch's answers against labels ``votes`` ``[P]``, each by ``sizes`` ``[P]`` answers."""
        groups = zip(batch.answers, votes, sizes, strict=True)
        return [[self._agrees(answer, vote, size) for answer in answers] for answers, vote, size in groups]

    def _agrees(self, answer: str | None, vote: Vote, size: int) -> Verdict:
        if vote.label is None:
            return Verdict(Outcome.NOT_APPLICABLE, reason=f"no label{self.voters}: there was no answer to vote for")
        label = f"label {shorten(vote.label)} ({vote.count} of {size} votes{self.voters})"
        if answer is None:
            return Verdict(Outcome.NOT_MET, reason=f"no boxed answer, {label}")
        met = self.equivalence(vote.label, answer)
        return Verdict(Outcome.MET if met else Outcome.NOT_MET, reason=f"answer {shorten(answer)}, {label}")

    def same_label(self, votes: Sequence[Vote], others: Sequence[Vote]) -> Tensor:
        """``[P]`` 1 where two votes have one label, 0 where two, NaN where one of them has none."""
        labels = [(vote.label, other.label) for vote, other in zip(votes, others, strict=True)]
        return torch.tensor([math.nan if a is None or b is None else float(self.equivalence(a, b)) for a, b in labels])


class OwnVotes(VotedScores):
    """Majority voting: the label is the vote of the group itself (the baseline of arXiv:2508.00410)."""

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        return self.agreement(batch, batch.votes, batch.voters), {}


class PairVotes(VotedScores):
    """Co-rewarding-I: each wording of a question is rewarded by the vote on the other one (arXiv:2508.00410 eq. 6-8).

    ``y_v = vote(rollouts of x)``, ``y_v' = vote(rollouts of x')``; rollouts of ``x`` get 1 where they equal ``y_v'``, rollouts
    of ``x'`` where they equal ``y_v``. ``vote/swap_agreement`` is the share of questions whose two labels agree.

    The prompts come in pairs, see :attr:`~lightning_focal.types.Prompts.partners`.
    """

    voters: ClassVar[str] = " of the other wording"

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        self._partners(prompts)

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        partners, voters = self._partners(batch.prompts), batch.voters
        swapped = [batch.votes[row] for row in partners]
        verdicts = self.agreement(batch, swapped, [voters[row] for row in partners])
        return verdicts, {"vote/swap_agreement": self.same_label(batch.votes, swapped)}

    def _partners(self, prompts: Prompts) -> list[int]:
        single = [name for name, partner in zip(prompts.ids, prompts.partners, strict=True) if partner is None]
        if single:
            raise ValueError(
                f"Co-rewarding-I needs every question in two wordings, {len(single)} of {len(prompts)} prompts have no other "
                f"(first: {single[0]!r}): write `data.pairs: true` with a data module that knows pairs "
                "(PairDataModule, ReasoningGymData)"
            )
        return [row for row in prompts.partners if row is not None]


class TeacherVotes(VotedScores):
    """Co-rewarding-II: the label is the vote of a slowly moving teacher over answers of its own (arXiv:2508.00410 eq. 9-11).

    ``vote/share``, ``vote/distinct``, ``vote/no_label`` and ``vote/accuracy`` are those of the teacher's vote, ``vote/unanswered``
    is the student's, ``vote/teacher_agreement`` the share of prompts on which the student's own vote has the same label.

    Args:
        group_size: answers of the teacher to a prompt, >= 1; None = as many as the student's.
        **kwargs: see :class:`AnswerScores`.
    """

    voters: ClassVar[str] = " of the teacher"

    def __init__(self, group_size: int | None = None, **kwargs: Any) -> None:
        if group_size is not None and group_size < 1:
            raise ValueError(f"`teacher_rollouts` must be >= 1 or null (as many as the student's), got {group_size}")
        super().__init__(**kwargs)
        self.group_size = group_size

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        answered = self.answerer.roll_out(batch.prompts, "teacher", group_size=self.group_size, teacher=True)
        taught = AnswerBatch(answered, self.equivalence)
        agreement = {"vote/teacher_agreement": self.same_label(batch.votes, taught.votes)}
        return self.agreement(batch, taught.votes, taught.voters), batch.vote_measures(taught.votes) | agreement
