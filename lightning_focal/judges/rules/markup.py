"""Checks of form: lists, headings, tables, code, JSON, placeholders."""

from __future__ import annotations

import json
import re
from typing import Any

from lightning_focal.judges.base import Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import count_between, verdict
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []

_HEADING = re.compile(r"\s{0,3}(#{1,6})\s+\S")
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
_CELL = re.compile(r"\s*:?-+:?\s*")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]{1,60})\](?!\()")


def _headings(view: ResponseView, level: int | None = None) -> int:
    matches = (_HEADING.match(line) for line in view.lines)
    return sum(match is not None and level in (None, len(match[1])) for match in matches)


def _tables(view: ResponseView) -> int:
    count = 0
    for header, rule in zip(view.lines, view.lines[1:], strict=False):
        if "|" not in header or "|" not in rule:
            continue
        cells = rule.strip().strip("|").split("|")
        same_width = len(header.strip().strip("|").split("|")) == len(cells)
        count += same_width and all(_CELL.fullmatch(cell) for cell in cells)
    return count


def _placeholders(view: ResponseView) -> int:
    if "[" not in view.text:
        return 0
    found = (match.strip() for match in _PLACEHOLDER.findall(view.text))
    # citations and check boxes are no placeholders
    return sum(not text.isdigit() and text.lower() not in ("", "x") for text in found)


@check("bullets", {"min": 3})
def bullets(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` lines start with `-`, `*`, `+` or `•`."""
    return count_between(lambda view: view.bullets, "bullets", min, max)


@check("numbered_list", {"min": 2, "max": 5})
def numbered_list(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` lines start like `1.` or `2)`."""
    return count_between(lambda view: view.numbered, "numbered items", min, max)


@check("list_items", {"min": 3, "max": 7})
def list_items(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` list items, bullets and numbered ones together."""
    return count_between(lambda view: view.bullets + view.numbered, "list items", min, max)


@check("no_bullets")
def no_bullets() -> Run:
    """Neither bullets nor numbered items."""
    return count_between(lambda view: view.bullets + view.numbered, "list items", None, 0)


@check("headings", {"min": 2, "level": 2})
def headings(min: int = 1, max: int | None = None, level: int | None = None) -> Run:
    """From `min` to `max` markdown headings with `#`, of `level` where given."""
    if level is not None and not 1 <= level <= 6:
        raise ValueError(f"`level` must be from 1 to 6, got {level}")
    return count_between(lambda view: _headings(view, level), "headings", min, max)


@check("bold", {"min": 1})
def bold(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` bold spans (`**...**` or `__...__`)."""
    return count_between(lambda view: len(_BOLD.findall(view.text)), "bold spans", min, max)


@check("table")
def table() -> Run:
    """A markdown table: a header line and a rule of as many cells."""
    return count_between(_tables, "tables", 1, None)


@check("code_block", {"language": "python"})
def code_block(language: str | None = None) -> Run:
    """A closed code fence, of `language` where given."""
    wanted = None if language is None else language.lower()

    def count(view: ResponseView) -> int:
        return sum(wanted in (None, name) for name, _ in view.fences)

    return count_between(count, "code blocks" if wanted is None else f"{wanted} code blocks", 1, None)


@check("no_markdown")
def no_markdown() -> Run:
    """No headings, bold spans, bullets, tables or code fences."""

    def count(view: ResponseView) -> int:
        return _headings(view) + len(_BOLD.findall(view.text)) + view.bullets + _tables(view) + len(view.fences)

    return count_between(count, "markdown elements", None, 0)


@check("placeholders", {"min": 2})
def placeholders(min: int = 1, max: int | None = None) -> Run:
    """From `min` to `max` placeholders in square brackets, such as `[name]`; links, citations and check boxes aside."""
    return count_between(_placeholders, "placeholders", min, max)


@check("no_placeholders")
def no_placeholders() -> Run:
    """No placeholder in square brackets, such as `[name]`."""
    return count_between(_placeholders, "placeholders", None, 0)


@check("postscript", {"marker": "P.S."})
def postscript(marker: str = "P.S.") -> Run:
    """A line starts with `marker`, whatever its case."""
    wanted = marker.lower()

    def run(view: ResponseView) -> Verdict:
        met = any(line.lstrip(" \t*_>").lower().startswith(wanted) for line in view.lines)
        return verdict(met, f"{'a' if met else 'no'} line starts with {marker!r}")

    return run


@check("json", {"schema": {"type": "object", "required": ["name"]}})
def json_document(schema: dict[str, Any] | None = None) -> Run:
    """The whole response is valid JSON (one code fence around it is fine) and fits the JSON schema `schema`."""
    validator = None if schema is None else _validator(schema)

    def run(view: ResponseView) -> Verdict:
        text = view.stripped
        if text.startswith("```") and text.endswith("```") and len(view.fences) == 1:
            text = view.fences[0][1]
        try:
            document = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return verdict(False, f"not valid JSON: {str(error)[:120]}")
        problem = None if validator is None else next(validator.iter_errors(document), None)
        if problem is not None:
            return verdict(False, f"JSON does not fit the schema at {problem.json_path}: {problem.message[:120]}")
        return verdict(True, "valid JSON" if validator is None else "valid JSON that fits the schema")

    return run


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _validator(schema: dict[str, Any]) -> Any:
    import jsonschema

    cls = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        cls.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"`schema` must be a JSON schema, got {schema!r} ({error.message} at {error.json_path})") from None
    return cls(schema)
