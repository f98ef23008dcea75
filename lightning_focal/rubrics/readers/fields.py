"""Fields that several formats share, read with errors that say what stood there.

Every reader takes the mapping, the name of the field, the place of the row and, for a field within the row, the path to its mapping
(``rubric[2]``).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning_focal.rubrics.criterion import RubricError, is_number
from lightning_focal.types import Message

__all__ = ["Row", "answer_of", "entries_of", "has_entries", "id_of", "messages_of", "number_of", "slugs", "tags_of", "text_of"]
__all__ += ["without_none"]

Row = Mapping[str, Any]
"""A row, or a mapping within one."""


def _expect(fits: Callable[[Any], bool], expected: str, row: Row, name: str, where: str, path: str) -> Any:
    value = row.get(name)
    if not fits(value):
        raise RubricError(where, f"{path}.{name}" if path else name, expected, value)
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_id(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


def _is_list_of_strings(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def text_of(row: Row, name: str, where: str, path: str = "") -> str:
    """Return the non-empty string under ``name``."""
    return str(_expect(_is_text, "a non-empty string", row, name, where, path))


def number_of(row: Row, name: str, where: str, path: str = "") -> float:
    """Return the finite number under ``name``."""
    return float(_expect(is_number, "a finite number", row, name, where, path))


def tags_of(row: Row, name: str, where: str, path: str = "") -> tuple[str, ...]:
    """Return the list of strings under ``name``; absent = none."""
    return () if row.get(name) is None else tuple(_expect(_is_list_of_strings, "a list of strings", row, name, where, path))


def id_of(row: Row, name: str, where: str, default_id: str) -> str:
    """Return the row's id as a string; absent = ``default_id``."""
    return (
        default_id
        if row.get(name) is None
        else str(_expect(_is_id, "a non-empty string or a whole number", row, name, where, ""))
    )


def answer_of(row: Row, name: str, where: str) -> str | None:
    """Return the gold answer as a string; absent = None."""
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value
    return str(_expect(is_number, "a string or a number", row, name, where, ""))


def entries_of(row: Row, name: str, where: str) -> list[Row]:
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


def has_entries(row: Row, name: str, *fields: str) -> bool:
    """Say whether ``name`` holds criteria, the first of which has the given fields."""
    try:
        return all(field in entries_of(row, name, "")[0] for field in fields)
    except RubricError:
        return False


def messages_of(row: Row, name: str, where: str) -> tuple[Message, ...]:
    """Return the chat under ``name``: a string (one user turn) or a list of ``{role, content}``."""
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise RubricError(where, name, "a non-empty string or list of {role, content}", value)
    for i, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RubricError(where, f"{name}[{i}]", "a mapping with `role` and `content`", turn)
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                raise RubricError(where, f"{name}[{i}].{key}", "a string", turn.get(key))
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in value)


def without_none(value: Any) -> Any:
    """Drop the keys of mappings whose value is None, at every depth: parquet fills absent keys so."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def slugs(texts: Iterable[str], words: int = 8) -> list[str]:
    """Make short unique names of criterion texts (ours): their first words, numbered where two agree.

    >>> slugs(["Names the dose.", "Names the dose!", "¿?"])
    ['names-the-dose', 'names-the-dose-2', 'criterion']
    """
    names: list[str] = []
    for text in texts:
        stem = "-".join(re.findall(r"\w+", text.lower())[:words])[:60].rstrip("-") or "criterion"
        numbered = (f"{stem}-{count}" if count > 1 else stem for count in itertools.count(1))
        names.append(next(name for name in numbered if name not in names))
    return names
