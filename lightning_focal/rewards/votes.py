"""Labels by vote: of the group itself, of the other wording's group, of a teacher, of answers recorded before training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_focal.functional import Vote, majority_vote
from lightning_focal.judges import Outcome, Verdict
from lightning_focal.rewards.answers import AnswerBatch, AnswerScores, EquivalenceKind, Judged, shorten, voting_answer
from lightning_focal.thoughts import split_thought
from lightning_focal.types import Prompts

__all__ = ["FrozenVotes", "OwnVotes", "PairVotes", "PairedTeacherVotes", "TeacherVotes", "expect_partners"]


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
            return Verdict(Outcome.NOT_MET, reason=f"no answer, {label}")
        met = self.equivalence(vote.label, answer)
        return Verdict(Outcome.MET if met else Outcome.NOT_MET, reason=f"answer {shorten(answer)}, {label}")

    def same_label(self, votes: Sequence[Vote], others: Sequence[Vote]) -> Tensor:
        """``[P]`` 1 where two votes have one label, 0 where two, NaN where one of them has none."""
        labels = [(vote.label, other.label) for vote, other in zip(votes, others, strict=True)]
        return torch.tensor([math.nan if a is None or b is None else float(self.equivalence(a, b)) for a, b in labels])


class OwnVotes(VotedScores):
    """Majority voting: the label is the vote of the group itself (the baseline of arXiv:2508.00410).

    Args:
        equivalence: see :class:`AnswerScores`.
        voters: answers that vote on a prompt, the trained ones among them; None = the group alone. With more of them than are trained
            (64 vote, 32 are trained) it is test-time RL as in arXiv:2504.16084. The further answers are drawn from the policy.
        **kwargs: see :class:`AnswerScores`.
    """

    def __init__(self, equivalence: EquivalenceKind = "math", voters: int | None = None, **kwargs: Any) -> None:
        if voters is not None and voters < 1:
            raise ValueError(f"`voters` must be >= 1 or null (the group alone), got {voters}")
        super().__init__(equivalence, **kwargs)
        self.group_size = voters

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`; ``ValueError`` for fewer voters than the group has."""
        if self.group_size is None or self.group_size == batch.rollouts.group_size:
            return self.agreement(batch, batch.votes, batch.voters), {}
        more = self.group_size - batch.rollouts.group_size
        if more < 0:
            raise ValueError(f"`voters` must be at least `model.group_size` = {batch.rollouts.group_size}, got {self.group_size}")
        further = AnswerBatch(self.answerer.roll_out(batch.prompts, "voters", group_size=more), self.equivalence)
        answers = [own + others for own, others in zip(batch.answers, further.answers, strict=True)]
        votes = [majority_vote(of_prompt, self.equivalence) for of_prompt in answers]
        sizes = [own + others for own, others in zip(batch.voters, further.voters, strict=True)]
        return self.agreement(batch, votes, sizes), batch.vote_measures(votes)


class PairVotes(VotedScores):
    """Co-rewarding-I: each wording of a question is rewarded by the vote on the other one (arXiv:2508.00410 eq. 6-8).

    ``y_v = vote(rollouts of x)``, ``y_v' = vote(rollouts of x')``; rollouts of ``x`` get 1 where they equal ``y_v'``, rollouts
    of ``x'`` where they equal ``y_v``. ``vote/swap_agreement`` is the share of questions whose two labels agree.

    The prompts come in pairs, see :attr:`~lightning_focal.types.Prompts.partners`.
    """

    voters: ClassVar[str] = " of the other wording"

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        expect_partners(prompts)

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        partners, voters = expect_partners(batch.prompts), batch.voters
        swapped = [batch.votes[row] for row in partners]
        verdicts = self.agreement(batch, swapped, [voters[row] for row in partners])
        return verdicts, {"vote/swap_agreement": self.same_label(batch.votes, swapped)}


def expect_partners(prompts: Prompts) -> list[int]:
    """Return the row of each prompt's other wording, ``[P]``; ``ValueError`` where a prompt has none."""
    single = [name for name, partner in zip(prompts.ids, prompts.partners, strict=True) if partner is None]
    if single:
        raise ValueError(
            f"Co-rewarding-I and -III need every question in two wordings, {len(single)} of {len(prompts)} prompts have no other "
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
        taught = self._taught(batch)
        return self._labelled(batch, taught.votes, taught.voters)

    def _taught(self, batch: AnswerBatch) -> AnswerBatch:
        answered = self.answerer.roll_out(batch.prompts, "teacher", group_size=self.group_size, teacher=True)
        return AnswerBatch(answered, self.equivalence)

    def _labelled(
        self, batch: AnswerBatch, votes: Sequence[Vote], sizes: Sequence[int]
    ) -> tuple[list[list[Verdict]], dict[str, Tensor]]:
        agreement = {"vote/teacher_agreement": self.same_label(batch.votes, votes)}
        return self.agreement(batch, votes, sizes), batch.vote_measures(votes) | agreement


class PairedTeacherVotes(TeacherVotes):
    """Co-rewarding-III: the teacher's vote on each wording labels the rollouts on the other (arXiv:2508.00410 v3).

    ``y~_v = vote(teacher's answers to x)``, ``y~_v' = vote(teacher's answers to x')``; rollouts of ``x`` get 1 where they equal ``y~_v'``,
    rollouts of ``x'`` where they equal ``y~_v``. ``vote/swap_agreement`` is the share of questions whose two labels agree; the other
    measures are those of :class:`TeacherVotes`. The prompts come in pairs, see :attr:`~lightning_focal.types.Prompts.partners`.
    """

    voters: ClassVar[str] = " of the teacher on the other wording"

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        expect_partners(prompts)

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        taught, partners = self._taught(batch), expect_partners(batch.prompts)
        swapped = [taught.votes[row] for row in partners]
        verdicts, measures = self._labelled(batch, swapped, [taught.voters[row] for row in partners])
        return verdicts, measures | {"vote/swap_agreement": self.same_label(taught.votes, swapped)}


class FrozenVotes(VotedScores):
    """The label is the vote of answers that were recorded before training, by the untrained policy say (arXiv:2505.21444).

    ``vote/frozen_agreement`` is the share of prompts on which the group's own vote has the same label.

    Args:
        votes: folder of recorded rollouts, ``<run folder>/rollouts`` of ``lightning_focal predict`` over the training prompts, or of a run.
            Every answer to a prompt votes.
        **kwargs: see :class:`AnswerScores`.

    Raises:
        ValueError: in :meth:`validate`, where the folder holds no rollouts, or none of a prompt.
    """

    voters: ClassVar[str] = " recorded before"

    def __init__(self, votes: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self._votes = Path(votes), dict[str, tuple[Vote, int]]()

    def validate(self, prompts: Prompts) -> None:
        """See :class:`ScoreSource`."""
        votes = self._recorded()
        if unknown := [name for name in prompts.ids if name not in votes]:
            raise ValueError(
                f"`votes`: {len(unknown)} of {len(prompts)} prompts have no recorded answer in {self.folder} (first: {unknown[0]!r})"
            )

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        votes, sizes = zip(*(self._recorded()[name] for name in batch.prompts.ids), strict=True)
        agreement = {"vote/frozen_agreement": self.same_label(batch.votes, votes)}
        return self.agreement(batch, votes, sizes), batch.vote_measures(votes) | agreement

    def _recorded(self) -> dict[str, tuple[Vote, int]]:
        """Vote and number of voters by prompt id; read once."""
        if not self._votes:
            import pyarrow.dataset as ds

            answers: dict[str, list[str | None]] = defaultdict(list)
            files = sorted(map(str, self.folder.glob("*.parquet")))
            if not files:
                raise ValueError(f"`votes`: no rollouts in {self.folder.absolute()}; expected the folder `rollouts` of a run")
            for row in ds.dataset(files).to_table(columns=["prompt_id", "response", "thought"]).to_pylist():
                response = row["response"] if row["thought"] is None else split_thought(row["response"]).answer
                answers[row["prompt_id"]].append(voting_answer(response))
            self._votes = {
                name: (majority_vote(given, self.equivalence), sum(answer is not None for answer in given))
                for name, given in answers.items()
            }
        return self._votes
