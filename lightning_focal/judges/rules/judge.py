"""The judge that needs no model: it measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_focal.judges.base import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.judges.rules.registry import CheckKind, Run, compile_check
from lightning_focal.judges.rules.view import ResponseView
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["RuleJudge"]

_EMPTY_MET = Verdict(Outcome.MET, None, "empty response")
_EMPTY_NOT_MET = Verdict(Outcome.NOT_MET, None, "empty response")
_MOST_COMPILED = 100_000


class RuleJudge(Judge):
    """Judges each criterion by its ``check``: the same response always gets the same verdict.

    An empty response scores 0 on every criterion (ours): it is not met, and a fault counts as met, since "at most 60 words" or
    "no exclamation marks" would otherwise reward saying nothing. Empty = nothing visible.

    A check that fails by itself (a pattern cut off by the time limit, a Python function that raises) gives ``ERROR``, never
    ``NOT_MET``.

    Args:
        regex_timeout: seconds a pattern of a rubric may search one response.

    Raises:
        ValueError: if ``regex_timeout`` is not positive and finite.

    >>> short = Criterion("short", "At most 3 words.", check={"kind": "max_words", "words": 3})
    >>> RuleJudge().judge([JudgeRequest((), "Drink more water today.", (short,))])[0][0].reason
    '4 words, at most 3 allowed'
    """

    def __init__(self, regex_timeout: float = 0.25) -> None:
        if not (isinstance(regex_timeout, (int, float)) and 0 < regex_timeout < math.inf):
            raise ValueError(f"`regex_timeout` must be a positive number of seconds, got {regex_timeout!r}")
        self.regex_timeout = float(regex_timeout)
        self._compiled: dict[Criterion, tuple[CheckKind, Run]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # closures do not pickle: another process compiles its own
        return {**self.__dict__, "_compiled": {}}

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion without a check, or with one that cannot be made.

        Raises:
            ValueError: starting with ``criterion.where``, naming the argument, what was expected and what came.
        """
        place = f"{criterion.where}: " if criterion.where else ""
        if criterion.check is None:
            raise ValueError(
                f"{place}criterion {criterion.name!r} has no `check`: a rule judge needs one, a model judge does not"
            )
        try:
            compile_check(criterion.check)
        except ValueError as error:
            raise ValueError(f"{place}criterion {criterion.name!r}: {error}") from error

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Judge every request; see :meth:`Judge.judge`.

        Raises:
            ValueError: if a criterion is one that :meth:`validate` refuses.
        """
        return [self._judge(request) for request in requests]

    def _judge(self, request: JudgeRequest) -> tuple[Verdict, ...]:
        view = ResponseView(request.messages, request.response, self.regex_timeout)
        if view.is_empty:
            for criterion in request.criteria:
                self._check_of(criterion)
            return tuple(_EMPTY_MET if criterion.is_fault else _EMPTY_NOT_MET for criterion in request.criteria)
        return tuple(self._verdict(view, criterion) for criterion in request.criteria)

    def _check_of(self, criterion: Criterion) -> tuple[CheckKind, Run]:
        found = self._compiled.get(criterion)
        if found is None:
            self.validate(criterion)
            if len(self._compiled) >= _MOST_COMPILED:
                self._compiled.clear()
            found = self._compiled[criterion] = compile_check(criterion.check or {})
        return found

    def _verdict(self, view: ResponseView, criterion: Criterion) -> Verdict:
        kind, run = self._check_of(criterion)
        try:
            verdict = run(view)
        except Exception as error:
            return Verdict(Outcome.ERROR, None, f"check {kind.kind!r} failed: {type(error).__name__}: {str(error)[:160]}")
        if verdict.value is None:
            return verdict
        low, high = criterion.low, criterion.high
        if kind.graded:
            return (
                verdict if (low, high) == (0, 1) else Verdict(Outcome.GRADED, low + verdict.value * (high - low), verdict.reason)
            )
        if not low <= verdict.value <= high:
            reason = f"{verdict.reason}, outside the criterion's range {low:g} to {high:g}"
            return Verdict(Outcome.ERROR, None, reason)
        return verdict
