"""Several judges, one verdict."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from lightning_focal.judges.base import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["MajorityJudge"]


class MajorityJudge(Judge):
    """The majority of several judges, criterion by criterion (ours).

    * An error does not vote. Where fewer than ``least_votes`` judges are left, the verdict is an error.
    * Met, not met and not applicable are counted; the one with most votes wins. A tie for the first place is an error, since
      nobody knows, and is masked like any other. An odd number of judges ties only where some fail or find a criterion not
      applicable.
    * Where a judge grades, all that judge it grade (met is ``high``, not met ``low``) and the verdict is the median grade; with
      an even number of them the mean of the two in the middle. They stand together against not applicable.

    Args:
        judges: who votes, at least one; each must be able to judge every criterion.
        least_votes: judges whose verdict must be at hand, from 1 to their number.

    Raises:
        ValueError: on no judges, or ``least_votes`` out of range.

    >>> from lightning_focal.judges import RuleJudge
    >>> criterion = Criterion("short", "Is short.", check={"kind": "max_words", "words": 3})
    >>> MajorityJudge([RuleJudge(), RuleJudge()]).judge([JudgeRequest((), "Hello", (criterion,))])[0][0].reason
    'met 2 of 2: 1 words, at most 3 allowed'
    """

    def __init__(self, judges: list[Judge], least_votes: int = 1) -> None:
        if not judges:
            raise ValueError("`judges` must hold at least one judge, got none")
        if not 1 <= least_votes <= len(judges):
            raise ValueError(f"`least_votes` must be from 1 to the number of judges ({len(judges)}), got {least_votes}")
        self.judges, self.least_votes = list(judges), least_votes

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion that one of the judges refuses.

        Raises:
            ValueError: of the first judge that does.
        """
        for judge in self.judges:
            judge.validate(criterion)

    def prepare(self) -> None:
        """Prepare every judge; see :meth:`Judge.prepare`."""
        for judge in self.judges:
            judge.prepare()

    def measures(self) -> dict[str, float]:
        """Return the measures of every judge, its number behind the name; see :meth:`Judge.measures`."""
        return {f"{name}_{i}": value for i, judge in enumerate(self.judges) for name, value in judge.measures().items()}

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Have every judge judge every request; see :meth:`Judge.judge`."""
        ballots = [judge.judge(requests) for judge in self.judges]
        return [
            tuple(self._count(criterion, [ballot[i][c] for ballot in ballots]) for c, criterion in enumerate(request.criteria))
            for i, request in enumerate(requests)
        ]

    def _count(self, criterion: Criterion, verdicts: list[Verdict]) -> Verdict:
        votes = [verdict for verdict in verdicts if verdict.outcome is not Outcome.ERROR]
        if len(votes) < self.least_votes:
            first = next(
                (f": {verdict.reason}" for verdict in verdicts if verdict.outcome is Outcome.ERROR and verdict.reason), ""
            )
            return Verdict(Outcome.ERROR, None, f"{len(votes)} of {len(verdicts)} judges judged, {self.least_votes} asked{first}")
        graded = any(verdict.outcome is Outcome.GRADED for verdict in votes)
        kinds = [Outcome.GRADED if graded and verdict.judged else verdict.outcome for verdict in votes]
        (kind, most), *others = Counter(kinds).most_common()
        shown = ", ".join(f"{name.value.replace('_', ' ')} {count}" for name, count in ((kind, most), *others))
        if others and others[0][1] == most:
            return Verdict(Outcome.ERROR, None, f"a tie: {shown} of {len(verdicts)}")
        reason = next(verdict.reason for verdict, own in zip(votes, kinds, strict=True) if own is kind)
        told = f"{shown} of {len(verdicts)}{f': {reason}' if reason else ''}"
        if kind is not Outcome.GRADED:
            return Verdict(kind, None, told)
        grade = statistics.median(_grade(criterion, verdict) for verdict in votes if verdict.judged)
        return Verdict(Outcome.GRADED, grade, told)


def _grade(criterion: Criterion, verdict: Verdict) -> float:
    if verdict.value is not None:
        return verdict.value
    return criterion.high if verdict.outcome is Outcome.MET else criterion.low
