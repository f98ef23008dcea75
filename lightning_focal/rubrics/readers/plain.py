"""The plain format: a prompt and a list of criteria, each with an optional rule to check it by (ours)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.errors import RubricError
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register
from lightning_focal.rubrics.readers.fields import (
    answer_of,
    entries_of,
    id_of,
    messages_of,
    number_of,
    slugs,
    tags_of,
    text_of,
    without_none,
)

__all__ = ["PlainFormat"]

_ENTRY_FIELDS = ("name", "description", "points", "tags", "check", "required", "low", "high")


@register
class PlainFormat(RubricFormat):
    """``{"prompt" or "messages", "rubric": [{"name", "description", "points", "check", ...}], "id", "answer"}``.

    Only a prompt and the rubric are needed; of a criterion, a description or a check. A missing name is made of the first
    words of the description, a missing description is the name. The check argument ``"$answer"`` is the row's answer, and the
    tag ``verifier:math`` stands for the check ``answer`` with it.
    """

    name = "plain"
    fields = "prompt or messages, rubric (name, description, points, check), id, answer"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a rubric and a prompt."""
        return "rubric" in row and ("prompt" in row or "messages" in row)

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        if ("prompt" in row) == ("messages" in row):
            raise RubricError(where, "prompt", "given, or `messages`, but not both", sorted(row))
        prompt = "prompt" if "prompt" in row else "messages"
        answer = answer_of(row, "answer", where)
        entries = [without_none(entry) for entry in entries_of(row, "rubric", where)]
        names = slugs(str(entry.get("description") or _kind(entry)) for entry in entries)
        criteria = tuple(
            self._criterion(entry, name, answer, where, f"rubric[{i}]")
            for i, (entry, name) in enumerate(zip(entries, names, strict=True))
        )
        extra = {key: value for key, value in row.items() if key not in ("id", prompt, "rubric", "answer")}
        return RubricRow(
            id=id_of(row, "id", where, default_id),
            messages=messages_of(row, prompt, where),
            rubric=Rubric(criteria, extra, where),
            answer=answer,
            extra=extra,
        )

    @staticmethod
    def _criterion(entry: Mapping[str, Any], name: str, answer: str | None, where: str, label: str) -> Criterion:
        for key in entry:
            if key not in _ENTRY_FIELDS:
                close = difflib.get_close_matches(str(key), _ENTRY_FIELDS, n=1)
                hint = f" (did you mean `{close[0]}`?)" if close else ""
                raise RubricError(where, f"{label}.{key}", f"one of {', '.join(_ENTRY_FIELDS)}{hint}", key)
        if "name" in entry:
            name = text_of(entry, "name", where, f"{label}.name")
        described = "check" not in entry or "description" in entry
        description = text_of(entry, "description", where, f"{label}.description") if described else name
        check = entry.get("check")
        if not (check is None or isinstance(check, str) or (isinstance(check, Mapping) and isinstance(check.get("kind"), str))):
            raise RubricError(where, f"{label}.check", "the name of a kind, or a mapping with a string `kind`", check)
        if isinstance(check, str):
            check = {"kind": check}
        elif check is not None:
            check = {key: _fill(value, answer, where, f"{label}.check.{key}") for key, value in check.items()}
        tags = tags_of(entry, "tags", where, f"{label}.tags")
        if check is None and "verifier:math" in tags:
            check = {"kind": "answer", "expected": _fill("$answer", answer, where, f"{label}.tags")}
        required = entry.get("required", False)
        if not isinstance(required, bool):
            raise RubricError(where, f"{label}.required", "true or false", required)
        numbers = {key: number_of(entry, key, where, f"{label}.{key}") for key in ("points", "low", "high") if key in entry}
        return Criterion(
            name,
            description,
            tags=tags,
            check=check,
            required=required,
            where=f"{where}: {label}",
            **numbers,
        )


def _kind(entry: Mapping[str, Any]) -> str:
    check = entry.get("check")
    return str(check.get("kind", "")) if isinstance(check, Mapping) else str(check or "")


def _fill(value: Any, answer: str | None, where: str, label: str) -> Any:
    if value != "$answer":
        return value
    if answer is None:
        raise RubricError(where, label, "used in a row with an `answer`", value)
    return answer
