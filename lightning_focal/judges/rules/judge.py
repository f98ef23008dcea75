"""The judge that needs no model: it measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from lightning_focal.judges.base import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.judges.rules.registry import CheckKind, Run, compile_check
from lightning_focal.judges.rules.view import ResponseView
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["RuleJudge"]


class RuleJudge(Judge):
    """Judges each criterion by its ``check``: the same response always gets the same verdict.

    A thought is not checked, unless a criterion's ``scope`` says so. An empty response scores 0 on every criterion (ours): it is
    not met, and a fault counts as met, since "at most 60 words" or "no exclamation marks" would otherwise reward saying nothing.
    Empty = nothing visible.

    A check that fails by itself (a pattern cut off by the time limit, a Python function that raises) gives ``ERROR``, never ``NOT_MET``.

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

    def validate(self, criterion: Criterion) -> None:
        """Refuse a criterion without a check, or with one that cannot be made: ``ValueError`` that starts with its place."""
        _compile(criterion)

    def overlaps(self, criterion: Criterion) -> bool:
        """Yes, but for functions of others, which may belong to the main thread."""
        return (criterion.check or {}).get("kind") != "python"

    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Judge every request; ``ValueError`` for a criterion that :meth:`validate` refuses."""
        verdicts = []
        for request in requests:
            checks = [_compiled(criterion) for criterion in request.criteria]
            views, found = dict[str, ResponseView](), list[Verdict]()  # one view for each part of the response
            for check, criterion in zip(checks, request.criteria, strict=True):
                verdict = request.empty(criterion)
                if verdict is None:
                    if criterion.scope not in views:
                        views[criterion.scope] = ResponseView(request.messages, _text(request, criterion), self.regex_timeout)
                    verdict = _verdict(views[criterion.scope], *check, criterion)
                found.append(verdict)
            verdicts.append(tuple(found))
        return verdicts


def _compile(criterion: Criterion) -> tuple[CheckKind, Run]:
    if criterion.check is None:
        raise ValueError(f"{criterion.place} has no `check`: a rule judge needs one, a model judge does not")
    try:
        return compile_check(criterion.check)
    except ValueError as error:
        raise ValueError(f"{criterion.place}: {error}") from error


_compiled = lru_cache(maxsize=100_000)(_compile)


def _text(request: JudgeRequest, criterion: Criterion) -> str:
    """What rules are checked on: of both parts of a response the text without marks."""
    if criterion.scope != "both" or request.parts.thought is None:
        return request.text(criterion)
    return "\n\n".join(filter(None, request.parts[:2]))


def _verdict(view: ResponseView, kind: CheckKind, run: Run, criterion: Criterion) -> Verdict:
    try:
        verdict = run(view)
    except Exception as error:
        return Verdict(Outcome.ERROR, None, f"check {kind.kind!r} failed: {type(error).__name__}: {str(error)[:160]}")
    low, high = criterion.low, criterion.high
    if verdict.value is None:
        return verdict
    if kind.graded:
        return Verdict(Outcome.GRADED, low + verdict.value * (high - low), verdict.reason)
    if not low <= verdict.value <= high:
        return Verdict(Outcome.ERROR, None, f"{verdict.reason}, outside the criterion's range {low:g} to {high:g}")
    return verdict
