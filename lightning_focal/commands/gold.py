"""Responses with verdicts of a person or a stronger judge, to measure a judge by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_focal.judges import JudgeRequest, Outcome, Verdict
from lightning_focal.rubrics import Criterion, RubricError, RubricRow, read_rows
from lightning_focal.types import level_key

__all__ = ["GoldCase", "read_gold"]

_EXPECTED = "true, false, 'met', 'not_met', a grade, or null (not labelled)"
_WORDS = {"met": True, "not_met": False, "not_applicable": None}


@dataclass(frozen=True)
class GoldCase:
    """One response and what is known about it.

    Args:
        id: of the row, with the number of the response where it has several.
        request: the response and its labelled criteria.
        met: how far each of them is met, in [0, 1]; for a fault 1 = the fault is there.
    """

    id: str
    request: JudgeRequest
    met: tuple[float, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Under which name each criterion is counted: its ``axis:`` tag, else its own name."""
        return tuple(level_key(criterion.name, criterion.tags) for criterion in self.request.criteria)


def read_gold(path: str | Path) -> list[GoldCase]:
    """Read labelled responses.

    A row is one of any rubric format, and besides holds ``response`` and ``verdicts``, or ``responses``, a list of mappings of the
    two. Verdicts are a list in the order of the criteria, or a mapping by criterion name; each is true or ``"met"``, false or
    ``"not_met"``, a grade between the criterion's ``low`` and ``high``, or null where the criterion was not labelled. As with
    rubrics, true on a fault means that the fault is there.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: on a malformed row or label, naming file, line and field; or where nothing at all is labelled.
    """
    cases = [case for row in read_rows(path) for case in _cases(row)]
    if not cases:
        raise RubricError(str(path), "verdicts", "given for at least one criterion", None)
    return cases


def _cases(row: RubricRow) -> list[GoldCase]:
    where, extra = row.rubric.where, row.extra
    given = extra.get("responses", [extra])
    if not isinstance(given, list) or not all(isinstance(entry, Mapping) for entry in given):
        raise RubricError(where, "responses", "a list of mappings with `response` and `verdicts`", given)
    cases = []
    for i, entry in enumerate(given):
        label = f"responses[{i}]." if "responses" in extra else ""
        response = entry.get("response")
        if not isinstance(response, str):
            raise RubricError(where, f"{label}response", "a string", response)
        met = [
            _met(criterion, value, where, f"{label}verdicts[{name!r}]")
            for (name, value), criterion in zip(_verdicts(row, entry.get("verdicts"), label), row.rubric.criteria, strict=True)
        ]
        chosen = [(criterion, value) for criterion, value in zip(row.rubric.criteria, met, strict=True) if value is not None]
        if chosen:
            request = JudgeRequest(row.messages, response, tuple(criterion for criterion, _ in chosen))
            cases.append(GoldCase(f"{row.id}#{i}" if label else row.id, request, tuple(value for _, value in chosen)))
    return cases


def _verdicts(row: RubricRow, given: Any, label: str) -> Sequence[tuple[str, Any]]:
    names = row.rubric.names
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise RubricError(row.rubric.where, f"{label}verdicts", f"by the names {', '.join(names)}", unknown[0])
        return [(name, given.get(name)) for name in names]
    if isinstance(given, list) and len(given) == len(names):
        return list(zip(names, given, strict=True))
    expected = f"a list of one verdict per criterion ({len(names)}), or a mapping by name"
    raise RubricError(row.rubric.where, f"{label}verdicts", expected, given)


def _met(criterion: Criterion, value: Any, where: str, label: str) -> float | None:
    value = _WORDS.get(value, value) if isinstance(value, str) else value
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not criterion.low <= value <= criterion.high:
        expected = f"{_EXPECTED} from {criterion.low:g} to {criterion.high:g}"
        raise RubricError(where, label, expected, value)
    return Verdict(Outcome.GRADED, float(value)).met(criterion)
