"""Fields that formats share, read with errors that say what stood there, whatever way they are written down.

Every reader takes the mapping, the path of the field (``a`` or ``a.b``), the place of the row and, for a field within the row,
the path to its mapping (``rubric[2]``).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from lightning_focal.rubrics.criterion import RubricError, is_number
from lightning_focal.types import Message

__all__ = ["Own", "Row", "answer_of", "at", "decoded", "entries_of", "found", "id_of", "messages_of", "number_of", "slugs"]
__all__ += ["tags_of", "text_of", "without_none"]

Row = Mapping[str, Any]
"""A row, or a mapping within one."""


class Own(dict[str, Any]):
    """A criterion whose fields are called as in the plain format."""


def decoded(value: Any) -> Any:
    """Return what text stands for that is a list or a mapping as JSON or as a Python literal; anything else as it is.

    >>> decoded('[{"a": 1}]'), decoded("{'a': None}"), decoded("[draft] Hi")
    ([{'a': 1}], {'a': None}, '[draft] Hi')
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{", '"[', '"{')):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            made = read(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        made = decoded(made)  # JSON may be written as a text of JSON
        return made if isinstance(made, (list, dict)) else value
    return value


def at(row: Row, path: str) -> Any:
    """Return what stands under a path; None where there is nothing. A list of one on the way counts as the one.

    >>> at({"reward_model": '{"rubrics": ["Is kind."]}'}, "reward_model.rubrics")
    ['Is kind.']
    """
    if "." not in path:
        return row.get(path)
    value: Any = row
    for name in path.split("."):
        value = decoded(value)
        if isinstance(value, list) and len(value) == 1:
            value = decoded(value[0])
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def found(row: Row, paths: Sequence[str]) -> str:
    """Return the first path under which there is something, else the first of all."""
    return next((path for path in paths if at(row, path) is not None), paths[0]) if len(paths) > 1 else paths[0]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _as_number(value: Any) -> Any:
    """Return the number that text or a decimal number stands for; anything else as it is."""
    if isinstance(value, (str, Decimal)):
        try:
            read = float(str(value).replace("_", " ").replace("\N{MINUS SIGN}", "-"))
        except ValueError:
            return value
        return read if math.isfinite(read) else value
    return value


def text_of(row: Row, name: str, where: str, path: str = "") -> str:
    """Return the non-empty string under ``name``."""
    value = at(row, name)
    if not _is_text(value):
        raise RubricError(where, f"{path}.{name}".lstrip("."), "a non-empty string", value)
    return str(value)


def number_of(row: Row, name: str, where: str, path: str = "") -> float:
    """Return the finite number under ``name``, which may be written as text or be a decimal one."""
    value = at(row, name)
    if not is_number(number := _as_number(value)):
        raise RubricError(where, f"{path}.{name}".lstrip("."), "a finite number", value)
    return float(number)


def tags_of(row: Row, name: str, where: str, path: str = "") -> tuple[str, ...]:
    """Return the list of strings under ``name``; absent = none."""
    value = decoded(at(row, name))
    if value is not None and not (isinstance(value, (list, tuple)) and all(isinstance(tag, str) for tag in value)):
        raise RubricError(where, f"{path}.{name}".lstrip("."), "a list of strings", value)
    return tuple(value or ())


def id_of(row: Row, name: str, where: str, default_id: str) -> str:
    """Return the row's id as a string; absent = ``default_id``. A table may keep whole numbers as floats."""
    value = at(row, name)
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int)) or value == ""):
        raise RubricError(where, name, "a non-empty string or a whole number", value)
    return default_id if value is None else str(value)


def answer_of(row: Row, name: str, where: str) -> str | None:
    """Return the gold answer as a string; absent = None. A list of one is the one."""
    value = at(row, name)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not (value is None or isinstance(value, (str, Decimal)) or is_number(value)):
        raise RubricError(where, name, "a string or a number", value)
    return None if value is None else str(float(value) if isinstance(value, Decimal) else value)


# -- chats ------------------------------------------------------------------------------------------------------------------

_CHATS = ("messages", "conversations", "conversation", "turns", "prompt")
_ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    "human": "user", "observation": "tool", **dict.fromkeys(("gpt", "bot", "model", "chatgpt"), "assistant"),
}  # fmt: skip
_LOOKS_LIKE_A_CHAT = re.compile(
    r"""\s*(?:array\(|[\[{(])(?=.*["'](?:role|from)["']\s*:)(?=.*["'](?:content|value)["']\s*:)(?:.*[\]})]|(?!.*}).*)\s*""",
    re.DOTALL,
)


def messages_of(row: Row, name: str, where: str) -> tuple[Message, ...]:
    """Return the chat under ``name``: a string (one user turn) or a list of turns.

    A turn is ``{role, content}`` or ShareGPT's ``{from, value}``; its content is text, or parts of which every one is text. Text
    that stands for a chat, as JSON or as a Python literal, is that chat.
    """
    given = at(row, name)
    value = decoded(given)
    if isinstance(value, Mapping):
        value = [value] if _is_turn(value) else next((value[key] for key in _CHATS if isinstance(value.get(key), list)), value)
    if isinstance(given, str) and not (isinstance(value, list) and any(map(_is_turn, value))):
        if isinstance(value, str) and _LOOKS_LIKE_A_CHAT.fullmatch(given):
            expected = "a chat that can be read: this text looks like one, and is neither JSON nor Python"
            raise RubricError(where, name, expected, given)
        if given.strip():
            return ({"role": "user", "content": given},)
    if not isinstance(value, list) or not value:
        raise RubricError(where, name, "a non-empty string or list of {role, content}", given)
    return tuple(_turn(turn, f"{name}[{i}]", where) for i, turn in enumerate(value))


def _is_turn(value: object) -> bool:
    return isinstance(value, Mapping) and not {"role", "from"}.isdisjoint(value) and not {"content", "value"}.isdisjoint(value)


def _turn(turn: Any, path: str, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RubricError(where, path, "a mapping with `role` and `content`", turn)
    role_key, content_key = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    role, content = turn.get(role_key), turn.get(content_key)
    if not isinstance(role, str):
        raise RubricError(where, f"{path}.{role_key}", "a string", role)
    role = _ROLES.get(role.lower(), role)
    calls = {key: turn[key] for key in ("tool_calls", "tool_call_id", "name") if turn.get(key)}
    if content is None and "tool_calls" in calls:
        content = ""
    if isinstance(content, (list, tuple)):
        content = "".join(_part(part, f"{path}.{content_key}[{i}]", where) for i, part in enumerate(content))
    if not isinstance(content, str):
        raise RubricError(where, f"{path}.{content_key}", "a string", content)
    return {"role": role, "content": content, **(calls if "tool_calls" in calls or role == "tool" else {})}


def _part(part: Any, path: str, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text") else part
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else part
        raise RubricError(where, path, "a part of text: images, sound and the like cannot be put to the policy", kind)
    return text


# -- criteria ---------------------------------------------------------------------------------------------------------------

_LIST = "a non-empty list of criteria"
_LISTS = ("criteria", "rubrics", "rubric", "items", "checklist")
_SIGNED = {"positive_rubrics": 1, "negative_rubrics": -1, "positive": 1, "negative": -1}
_POINTS = ("points", "weight")
_BROKEN = re.compile(r"""\s*(?:array\s*\(\s*)?(?:\[\s*[\[{"']|\{\s*["'])""")
_LEVEL = re.compile(r"(?P<scored>(?:orig_)?score)?(?P<low>\d+)(?(scored)_description|(?:\s*[-–]\s*(?P<high>\d+))?)")
_level = functools.lru_cache(_LEVEL.fullmatch)
_LEVEL_LINE = re.compile(r"^\W*score\s*(\d+)\W*:", re.IGNORECASE | re.MULTILINE)
_KIND = r"\[?(?:hard rule|principle)s?\]?"
_ITEM = re.compile(
    rf"(?P<indent>\s*)(?P<bold>\**)(?:(?P<number>\(?\d{{1,3}}[.)])\s+|[-*•]\s+|(?=\[{_KIND}\W*\w))(?P<text>\S.*)", re.IGNORECASE
)
_HEADING = re.compile(rf"#.*|.*:\**|\**{_KIND}\**", re.IGNORECASE)
_TAG = re.compile(r"\s*\**\[(hard rules?|principles?)\]\**\s*", re.IGNORECASE)


def entries_of(row: Row, name: str, where: str) -> list[tuple[str, Row]]:
    """Return the criteria under ``name``, each with its path, whatever shape they have.

    Known are a list of mappings, of texts or of (text, points); a mapping that holds such a list, lists of positive and
    negative ones, texts by name, points by text, descriptions of grades, or a tree, whose leaves weigh the product of their
    shares; text that numbers its criteria or is one criterion; and any of these as JSON.
    """
    return _signed(row, "", where) if name in _SIGNED else _listed(at(row, name), name, where)


def _listed(given: Any, name: str, where: str) -> list[tuple[str, Row]]:
    value = decoded(given)
    if isinstance(value, str) and value.strip():
        if _BROKEN.match(value):
            raise RubricError(where, name, f"{_LIST}, or one as JSON", given)
        return [(f"{name}[{i}]", entry) for i, entry in enumerate(_of_text(value))]
    if isinstance(value, Mapping) and value:
        return _of_mapping(value, name, where)
    if not isinstance(value, list) or not value:
        raise RubricError(where, name, _LIST, given)
    made: list[tuple[str, Row]] = []
    for i, item in enumerate(value):
        path = f"{name}[{i}]"
        entry = decoded(item)
        if isinstance(entry, str) and entry.strip():
            entry = _of_line(entry)
        elif isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str):
            entry = Own(description=entry[0], points=entry[1])
        elif not isinstance(entry, dict):
            raise RubricError(where, path, "a mapping", item)
        made += _leaves(entry, path, where, 1.0) if "sub_tasks" in entry else [(path, _graded(entry, path, where) or entry)]
    return made


def _of_mapping(value: Row, name: str, where: str) -> list[tuple[str, Row]]:
    if "sub_tasks" in value:
        return _leaves(value, name, where, 1.0)
    if graded := _graded(value, name, where):
        return [(name, graded)]
    if key := next((key for key in _LISTS if isinstance(decoded(value.get(key)), (list, Mapping))), None):
        return _listed(value[key], f"{name}.{key}", where)
    if any(value.get(key) for key in _SIGNED):
        return _signed(value, f"{name}.", where)
    if {"name", "title", "description", "criterion", "requirement"}.isdisjoint(value):
        if all(is_number(_as_number(points)) for points in value.values()):
            return [(f"{name}.{text}", Own(description=text, points=points)) for text, points in value.items()]
        if all(map(_is_text, value.values())):
            return [(f"{name}.{key}", Own(name=key, description=text)) for key, text in value.items()]
        if all(isinstance(entry, Mapping) for entry in value.values()):
            return [(f"{name}.{key}", _like(entry, {"name": key, **entry})) for key, entry in value.items()]
    raise RubricError(where, name, _LIST, value)


def _signed(value: Row, within: str, where: str) -> list[tuple[str, Row]]:
    return [
        (path, _like(entry, {**entry, points: _SIGNED[key] * abs(number_of({points: 1, **entry}, points, where, path))}))
        for key in _SIGNED
        if value.get(key)
        for path, entry in _listed(value[key], f"{within}{key}", where)
        for points in [found(entry, _POINTS)]
    ]


def _like(entry: Row, fields: dict[str, Any]) -> Row:
    return Own(fields) if isinstance(entry, Own) else fields


def _leaves(node: Row, path: str, where: str, share: float) -> list[tuple[str, Row]]:
    """Return the leaves of a tree: a parent scores the weighted mean of its children, so shares multiply along a branch."""
    children = node.get("sub_tasks") or []
    if not isinstance(children, list) or not all(isinstance(child, Mapping) for child in children):
        raise RubricError(where, f"{path}.sub_tasks", "a list of mappings", children)
    if not children:
        kind = node.get("task_category")
        tags = {"tags": [f"category:{kind}"]} if kind else {}
        return [(path, Own(description=text_of(node, "requirements", where, path), points=share, **tags))]
    paths = [f"{path}.sub_tasks[{i}]" for i in range(len(children))]
    weights = [number_of(child, "weight", where, its) for child, its in zip(children, paths, strict=True)]
    if min(weights) < 0 or not sum(weights):
        raise RubricError(where, f"{path}.sub_tasks", "of weights that are none below 0 and not all 0", weights)
    parts = zip(children, paths, weights, strict=True)
    return [leaf for child, its, weight in parts for leaf in _leaves(child, its, where, share * weight / sum(weights))]


def _graded(value: Row, path: str, where: str) -> Own | None:
    """Return the criterion of a mapping that describes its grades, ``score1_description`` or ``"1-2"``; None = it is none."""
    matches = {key: match for key in value if (match := _level(str(key))) and isinstance(value[key], str)}
    if len(matches) < 2:
        return None
    of_all = next((key for key in ("criteria_description", "criteria", "orig_criteria", "description") if value.get(key)), None)
    if of_all is None:
        if any(match["scored"] for match in matches.values()):
            raise RubricError(where, f"{path}.criteria", "given beside the descriptions of its grades", None)
        return None
    grades = sorted((int(match["low"]), int(match["high"] or match["low"]), value[key]) for key, match in matches.items())
    told = [f"Score {low}{f' to {high}' if high > low else ''}: {text}" for low, high, text in grades]
    text = "\n".join([str(value[of_all]), *told])
    return Own(title=str(value.get("name") or value[of_all]), description=text, low=grades[0][0], high=max(g[1] for g in grades))


def _of_text(text: str) -> list[Own]:
    """Return the numbered items of a text, or the text as the one criterion; a line of no number belongs to the item above."""
    items: list[str] = []
    first: tuple[str, bool] | None = None
    for line in text.splitlines():
        match = _ITEM.fullmatch(line)
        mark = (match["indent"], match["number"] is None) if match else None
        if match and mark == (first or mark):
            if items and _HEADING.fullmatch((parts := items[-1].rpartition("\n"))[2]):
                items[-1] = parts[0] or parts[2]
            first = mark
            items.append(match["text"].replace(match["bold"], "", 1) if match["bold"] else match["text"])
        elif items and line.strip():
            items[-1] += f"\n{line.strip()}"
    return [_of_line(item) for item in items or [text]]


def _of_line(text: str) -> Own:
    """Return a criterion of a text, which may carry ``[Hard Rule]`` (required) or ``[Principle]``, and describe its grades."""
    made = Own(description=text.strip())
    if tag := _TAG.search(text):
        kind = tag[1].lower().rstrip("s")
        made = Own(description=f"{text[: tag.start()]} {text[tag.end() :]}".strip(), tags=[f"type:{kind}"])
        made |= {"required": True} if kind == "hard rule" else {}
    if len(grades := {int(grade) for grade in _LEVEL_LINE.findall(text)}) > 1:
        made |= {"title": text.strip().partition("\n")[0], "low": min(grades), "high": max(grades)}
    return made


def without_none(value: Any) -> Any:
    """Drop the keys of mappings whose value is None, at every depth: parquet fills absent keys so."""
    if isinstance(value, dict):
        return {k: without_none(v) if isinstance(v, (dict, list)) else v for k, v in value.items() if v is not None}
    return [without_none(v) if isinstance(v, (dict, list)) else v for v in value] if isinstance(value, list) else value


_WORD, _FIRST_WORDS = re.compile(r"\w+"), re.compile(r"\W*(?:\w+\W+){0,7}\w*")


def slugs(texts: Sequence[str], wholes: Sequence[str] | None = None) -> list[str]:
    """Make short names of criterion texts (ours): their first words and, where these do not say all, a hash of the whole text.

    A name depends on its text alone: it is the same in every file, run and process, and other texts have other names. Words alone
    are the name of a sentence of at most eight plain words. A text that recurs in a rubric is numbered. ``wholes`` are what to tell
    criteria apart by, ``texts`` by default.

    >>> slugs(["Names the dose.", "Names the dose!", "Names the dose.", "\u00bf?"])
    ['names-the-dose', 'names-the-dose.5006bcf6', 'names-the-dose.2', 'criterion.049e42f7']
    """
    names: dict[str, None] = {}
    for text, whole in zip(texts, texts if wholes is None else wholes, strict=True):
        words = _WORD.findall(_FIRST_WORDS.match(text)[0].lower())  # type: ignore[index]
        name = "-".join(words[:8])[:60].rstrip("-") or "criterion"
        if len(whole) != len(name) + 1 or whole != f"{name.replace('-', ' ').capitalize()}.":
            name += f".{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        if name in names:
            name = next(one for count in itertools.count(2) if (one := f"{name}.{count}") not in names)
        names[name] = None
    return list(names)
