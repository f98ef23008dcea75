"""Each criterion to the judge that can judge it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_focal.judges.base import Judge, JudgeRequest, Verdict
from lightning_focal.judges.empty import empty_verdict, is_empty
from lightning_focal.judges.rules import RuleJudge
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["RoutedJudge", "is_rule"]

_RULE_TAGS = frozenset(("verifier:rule", "verifier:math"))


def is_rule(criterion: Criterion) -> bool:
    """Say whether rules judge a criterion: it has a ``check``, or the tag ``verifier:rule`` or ``verifier:math``.

    >>> is_rule(Criterion("short", "Is short.", check="no_commas")), is_rule(Criterion("kind", "Is kind."))
    (True, False)
    """
    return criterion.check is not None or not _RULE_TAGS.isdisjoint(criterion.tags)


class RoutedJudge(Judge):
    """Rules and mathematics judge what a program can, another judge the rest.

    A criterion with a ``check``, or tagged ``verifier:rule`` or ``verifier:math``, goes to ``rules``, every other one to
    ``other``. Each of the two is asked once a batch, about its criteria alone. An empty response scores 0 on every criterion
    (ours) and is put to neither.

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

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion that the judge it goes to refuses, or that goes to nobody.

        Raises:
            ValueError: starting with ``criterion.where``.
        """
        if is_rule(criterion):
            self.rules.validate(criterion)
        elif self.other is not None:
            self.other.validate(criterion)
        else:
            raise _refusal(criterion)

    def prepare(self) -> None:
        """Prepare both judges; see :meth:`Judge.prepare`."""
        for judge in self._judges():
            judge.prepare()

    def measures(self) -> dict[str, float]:
        """Return the measures of both judges; see :meth:`Judge.measures`."""
        return {name: value for judge in self._judges() for name, value in judge.measures().items()}

    def _judges(self) -> tuple[Judge, ...]:
        return (self.rules,) if self.other is None else (self.rules, self.other)

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Judge every request; see :meth:`Judge.judge`.

        Raises:
            ValueError: if a criterion is one that :meth:`validate` refuses.
        """
        verdicts: list[list[Verdict | None]] = [[None] * len(request.criteria) for request in requests]
        for i, request in enumerate(requests):
            if is_empty(request.response):
                verdicts[i] = [empty_verdict(criterion) for criterion in request.criteria]
        for by_rule, judge in ((True, self.rules), (False, self.other)):
            places = [
                (i, [c for c, criterion in enumerate(request.criteria) if is_rule(criterion) is by_rule])
                for i, request in enumerate(requests)
                if None in verdicts[i]
            ]
            places = [(i, chosen) for i, chosen in places if chosen]
            if judge is None:
                if places:
                    raise _refusal(requests[places[0][0]].criteria[places[0][1][0]])
                continue
            asked = [_part(requests[i], chosen) for i, chosen in places]
            for (i, chosen), given in zip(places, judge.judge(asked), strict=True):
                for c, verdict in zip(chosen, given, strict=True):
                    verdicts[i][c] = verdict
        return [tuple(verdict for verdict in row if verdict is not None) for row in verdicts]


def _part(request: JudgeRequest, chosen: list[int]) -> JudgeRequest:
    return JudgeRequest(request.messages, request.response, tuple(request.criteria[c] for c in chosen))


def _refusal(criterion: Criterion) -> ValueError:
    place = f"{criterion.where}: " if criterion.where else ""
    return ValueError(
        f"{place}criterion {criterion.name!r} has no `check`, and nobody else judges: "
        "give `other` a judge, such as a language model"
    )
