"""Judges made of judges: each criterion to the one that can judge it, and several judges with one verdict."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lightning_focal.judges.base import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.judges.overlap import JudgeThread
from lightning_focal.judges.rules import RuleJudge
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["MajorityJudge", "RoutedJudge", "is_rule"]

_RULE_TAGS = frozenset(("verifier:rule", "verifier:math"))


def is_rule(criterion: Criterion) -> bool:
    """Say whether rules judge a criterion: it has a ``check``, or the tag ``verifier:rule`` or ``verifier:math``.

    >>> is_rule(Criterion("short", "Is short.", check="no_commas")), is_rule(Criterion("kind", "Is kind."))
    (True, False)
    """
    return criterion.check is not None or not _RULE_TAGS.isdisjoint(criterion.tags)


class _JudgeOfJudges(Judge):
    judges: list[Judge]

    def prepare(self) -> None:
        """Prepare every judge."""
        for judge in self.judges:
            judge.prepare()

    @property
    def whole_groups(self) -> bool:  # type: ignore[override]
        """True where one of the judges compares responses."""
        return any(judge.whole_groups for judge in self.judges)

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Judge every request; ``ValueError`` for a criterion that :meth:`validate` refuses."""
        return self.judge_stream([requests])


class RoutedJudge(_JudgeOfJudges):
    """Rules and mathematics judge what a program can, another judge the rest.

    A criterion with a ``check``, or tagged ``verifier:rule`` or ``verifier:math``, goes to ``rules``, every other one to ``other``. Each of
    the two is asked once a batch, about its criteria alone. An empty response scores 0 on every criterion (ours) and is put to neither.

    Args:
        rules: judges criteria with a check; :class:`RuleJudge` by default.
        other: judges the rest, usually a language model; None = there must be no rest, which :meth:`validate` checks.

    >>> criteria = (Criterion("short", "Is short.", check={"kind": "max_words", "words": 3}), Criterion("kind", "Is kind."))
    >>> RoutedJudge().validate(criteria[0])
    >>> RoutedJudge().validate(criteria[1])
    Traceback (most recent call last):
        ...
    ValueError: criterion 'kind' has no `check`, and nobody else judges: give `other` a judge, such as a language model
    """

    def __init__(self, rules: Judge | None = None, other: Judge | None = None) -> None:
        self.rules = rules or RuleJudge()
        self.other = other
        self.judges = [judge for judge in (self.rules, other) if judge is not None]

    def _judge_of(self, criterion: Criterion) -> Judge:
        judge = self.rules if is_rule(criterion) else self.other
        if judge is None:
            advice = "give `other` a judge, such as a language model"
            raise ValueError(f"{criterion.place} has no `check`, and nobody else judges: {advice}")
        return judge

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion that the judge it goes to refuses, or that goes to nobody."""
        self._judge_of(criterion).validate(criterion)

    def measures(self) -> dict[str, float]:
        """Return the measures of both judges."""
        return {name: value for judge in self.judges for name, value in judge.measures().items()}

    def overlaps(self, criterion: Criterion) -> bool:
        """As the judge that it goes to."""
        return self._judge_of(criterion).overlaps(criterion)

    def judge_stream(self, parts: Iterable[Sequence[JudgeRequest]]) -> list[tuple[Verdict, ...]]:
        """See :class:`Judge`: rules judge each part when it comes, the other judge is asked once about all of them."""
        verdicts: list[dict[int, Verdict]] = []
        left: list[tuple[dict[int, Verdict], list[int]]] = []

        def rest() -> Iterator[list[JudgeRequest]]:
            for part in parts:
                rows = [self._known(request) for request in part]
                verdicts.extend(rows)
                asked = {by_rule: _chosen(part, rows, by_rule) for by_rule in (True, False)}
                ruled = self.rules.judge([request for *_, request in asked[True]])
                for (row, chosen, _), given in zip(asked[True], ruled, strict=True):
                    row |= zip(chosen, given, strict=True)
                if asked[False]:
                    left.extend((row, chosen) for row, chosen, _ in asked[False])
                    yield [request for *_, request in asked[False]]

        given_rest = (
            RuleJudge().judge_stream(rest()) if self.other is None else self.other.judge_stream(rest())
        )  # None: there is none
        for (row, chosen), given in zip(left, given_rest, strict=True):
            row |= zip(chosen, given, strict=True)
        return [tuple(row[c] for c in sorted(row)) for row in verdicts]

    def _known(self, request: JudgeRequest) -> dict[int, Verdict]:
        """Verdicts by criterion on what is empty; who compares responses is shown these, too."""
        known = {}
        for c, criterion in enumerate(request.criteria):
            whole = self._judge_of(criterion).whole_groups  # refuses a criterion that nobody judges
            if not whole and (verdict := request.empty(criterion)) is not None:
                known[c] = verdict
        return known


def _chosen(
    part: Sequence[JudgeRequest], rows: Sequence[dict[int, Verdict]], by_rule: bool
) -> list[tuple[dict[int, Verdict], list[int], JudgeRequest]]:
    """Of each request what rules judge, or what they do not: where its verdicts go, places of the criteria, and the request."""
    found = []
    for request, row in zip(part, rows, strict=True):
        chosen = [c for c, criterion in enumerate(request.criteria) if c not in row and is_rule(criterion) is by_rule]
        if chosen:
            found.append((row, chosen, replace(request, criteria=tuple(request.criteria[c] for c in chosen))))
    return found


class MajorityJudge(_JudgeOfJudges):
    """The majority of several judges, criterion by criterion (ours).

    * An error does not vote. Where fewer than ``least_votes`` judges are left, the verdict is an error.
    * Met, not met and not applicable are counted; the one with most votes wins. A tie for the first place is an error, since nobody knows,
      and is masked like any other. An odd number of judges ties only where some fail or find a criterion not applicable.
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
        """Refuse a criterion that one of the judges refuses."""
        for judge in self.judges:
            judge.validate(criterion)

    def measures(self) -> dict[str, float]:
        """Return the measures of every judge, its number behind the name."""
        return {f"{name}_{i}": value for i, judge in enumerate(self.judges) for name, value in judge.measures().items()}

    def overlaps(self, criterion: Criterion) -> bool:
        """Where all judges do."""
        return all(judge.overlaps(criterion) for judge in self.judges)

    def judge_stream(self, parts: Iterable[Sequence[JudgeRequest]]) -> list[tuple[Verdict, ...]]:
        """See :class:`Judge`: every judge judges every request; side by side where requests come one after another."""
        if isinstance(parts, Sequence):
            requests = [request for part in parts for request in part]
            ballots = [judge.judge_stream(parts) for judge in self.judges]
        else:
            requests, threads = [], [JudgeThread(judge) for judge in self.judges]
            try:
                for part in parts:
                    requests += part
                    for thread in threads:
                        thread.add(part)
                ballots = [thread.finish() for thread in threads]
            finally:
                for thread in threads:
                    thread.stop(0)
                for thread in threads:
                    thread.stop()
        return [
            tuple(self._count(criterion, [ballot[i][c] for ballot in ballots]) for c, criterion in enumerate(request.criteria))
            for i, request in enumerate(requests)
        ]

    def _count(self, criterion: Criterion, verdicts: list[Verdict]) -> Verdict:
        votes = [verdict for verdict in verdicts if verdict.outcome is not Outcome.ERROR]
        if len(votes) < self.least_votes:
            why = next((f": {v.reason}" for v in verdicts if v.outcome is Outcome.ERROR and v.reason), "")
            return Verdict(Outcome.ERROR, None, f"{len(votes)} of {len(verdicts)} judges judged, {self.least_votes} asked{why}")
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
        ends = {Outcome.MET: criterion.high, Outcome.NOT_MET: criterion.low}
        grades = [ends[v.outcome] if v.value is None else v.value for v in votes if v.judged]
        return Verdict(Outcome.GRADED, statistics.median(grades), told)
