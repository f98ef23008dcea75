"""Fields that several formats share, read with errors that say what stood there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_focal.rubrics.errors import RubricError
from lightning_focal.types import Message

__all__ = [
    "answer_of",
    "entries_of",
    "has_entries",
    "id_of",
    "messages_of",
    "number_of",
    "slugs",
    "tags_of",
    "text_of",
    "without_none",
]


def text_of(row: Mapping[str, Any], name: str, where: str, label: str = "") -> str:
    """Return the non-empty string under ``name``."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RubricError(where, label or name, "a non-empty string", value)
    return value


def number_of(row: Mapping[str, Any], name: str, where: str, label: str = "") -> float:
    """Return the finite number under ``name``."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RubricError(where, label or name, "a finite number", value)
    return float(value)


def entries_of(row: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    """Return the non-empty list of mappings under ``name``; some data sets write it as a JSON string."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise RubricError(where, name, "a non-empty list of criteria, or one as JSON", value) from None
    if not isinstance(value, list) or not value:
        raise RubricError(where, name, "a non-empty list of criteria", value)
    for i, entry in enumerate(value):
        if not isinstance(entry, Mapping):
            raise RubricError(where, f"{name}[{i}]", "a mapping", entry)
    return value


def has_entries(row: Mapping[str, Any], name: str, *fields: str) -> bool:
    """Say whether ``name`` holds criteria, the first of which has the given fields."""
    try:
        entries = entries_of(row, name, "")
    except RubricError:
        return False
    return all(field in entries[0] for field in fields)


def tags_of(row: Mapping[str, Any], name: str, where: str, label: str = "") -> tuple[str, ...]:
    """Return the list of strings under ``name``; absent = none."""
    value = row.get(name)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(tag, str) for tag in value):
        raise RubricError(where, label or name, "a list of strings", value)
    return tuple(value)


def messages_of(row: Mapping[str, Any], name: str, where: str) -> tuple[Message, ...]:
    """Return the chat under ``name``: a string (one user turn) or a list of ``{role, content}``."""
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise RubricError(where, name, "a non-empty string or list of {role, content}", value)
    messages = []
    for i, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RubricError(where, f"{name}[{i}]", "a mapping with `role` and `content`", turn)
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                raise RubricError(where, f"{name}[{i}].{key}", "a string", turn.get(key))
        messages.append({"role": turn["role"], "content": turn["content"]})
    return tuple(messages)


def id_of(row: Mapping[str, Any], name: str, where: str, default_id: str) -> str:
    """Return the row's id as a string; absent = ``default_id``."""
    value = row.get(name)
    if value is None:
        return default_id
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RubricError(where, name, "a non-empty string or a whole number", value)
    return str(value)


def answer_of(row: Mapping[str, Any], name: str, where: str) -> str | None:
    """Return the gold answer as a string; absent = None."""
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RubricError(where, name, "a string or a number", value)
    return str(value)


def without_none(value: Any) -> Any:
    """Drop the keys of mappings whose value is None, at every depth: parquet fills absent keys so."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_none(v) for v in value]
    return value


def slugs(texts: Iterable[str], words: int = 8) -> list[str]:
    """Make short unique names of criterion texts (ours): their first words, numbered where two agree.

    >>> slugs(["Names the dose.", "Names the dose!", "¿?"])
    ['names-the-dose', 'names-the-dose-2', 'criterion']
    """
    names: list[str] = []
    taken: set[str] = set()
    for text in texts:
        stem = "-".join(re.findall(r"\w+", text.lower())[:words])[:60].rstrip("-") or "criterion"
        name, count = stem, 1
        while name in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name)
        names.append(name)
    return names
