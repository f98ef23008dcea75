"""Checks of form: length, lists, headings, tables, code, JSON, placeholders. Bounds include both ends."""

from __future__ import annotations

import json
from typing import Any

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Count, Run, check, count_between, none, register, rule, several, verdict
from lightning_focal.judges.rules.script import count_characters, fold, split_words
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []


def _bounded(kind: str, unit: str, count: Count, least: str, most: str, summary: str, *example: int, of: type = int) -> None:
    """Register a check of a count with arguments ``least`` and ``most``, as far as they have names."""
    names = [name for name in (least, most) if name]
    register(
        kind,
        lambda **given: count_between(count, unit, given.get(least), given.get(most), names[0] if len(names) == 1 else ""),
        dict.fromkeys(names, (of, ...)),
        summary,
        dict(zip(names, example, strict=True)),
    )


def _length(unit: str, count: Count, about: str, low: int, high: int) -> None:
    """Register ``min_<unit>``, ``max_<unit>`` and ``<unit>_between``; ``low`` and ``high`` are those of the examples."""
    _bounded(f"min_{unit}", unit, count, unit, "", f"At least `{unit}` {unit}{about}.", low)
    _bounded(f"max_{unit}", unit, count, "", unit, f"At most `{unit}` {unit}{about}.", high)
    _bounded(f"{unit}_between", unit, count, "min", "max", f"From `min` to `max` {unit}{about}.", low, high)


_length("words", lambda view: len(view.words), "", 20, 60)
_length("sentences", lambda view: len(view.sentences), ", code fences left out", 2, 4)
_length("paragraphs", lambda view: len(view.paragraphs), ", parted by blank lines outside code fences", 2, 3)
_length("characters", lambda view: count_characters(view.stripped), ", as a reader sees them, outer white space aside", 100, 280)
_length("lines", lambda view: len(view.lines), " that are not blank", 2, 6)


_bounded("white_space_words", "pieces between white space", lambda view: len(view.text.split()), "min", "max",
         "From `min` to `max` pieces that white space parts, which some data sets call words.", 20, 60)  # fmt: skip


@rule("target_words", {"words": 50, "spread": 25}, graded=True, least=1)
def _target_words(view: ResponseView, words: int, spread: int | None = None) -> Verdict:
    """Grade: 1 at `words` words, falling linearly to 0 at `spread` words more or fewer (default: `words`)."""
    count = len(view.words)
    return Verdict(Outcome.GRADED, max(0.0, 1 - abs(count - words) / (spread or words)), f"{count} words, {words} aimed at")


_bounded("max_average_sentence", "words a sentence", lambda view: len(view.prose_words) / max(1, len(view.sentences)), "", "words",
         "At most `words` words a sentence on average.", 20, of=float)  # fmt: skip
_bounded("max_longest_sentence", "words in the longest sentence", lambda view: max(map(len, map(split_words, view.sentences)), default=0),
         "", "words", "No sentence of more than `words` words.", 30)  # fmt: skip


def _items(view: ResponseView) -> int:
    return view.markup.bullets + view.markup.numbered


def _markdown(view: ResponseView) -> int:
    found = view.markup
    return len(found.headings) + found.bold + found.bullets + found.tables + len(found.code_lines) + found.others


several("bullets", "bullets", lambda view: view.markup.bullets, ", items of lists or lines that start with `•`", min=3)
several("numbered_list", "numbered items", lambda view: view.markup.numbered, ", which start like `1.` or `2)`", min=2, max=5)
several("list_items", "list items", _items, ", bullets and numbered ones together", min=3, max=7)
none("no_bullets", "list items", _items, ", neither bullets nor numbered ones")
several("bold", "bold spans", lambda view: view.markup.bold, " (`**...**` or `__...__`; a name like `__init__` is none)", min=1)
_NAMES = " in square brackets, such as `[name]`; links, citations, intervals and check boxes aside"
several("placeholders", "placeholders", lambda view: view.markup.placeholders, _NAMES, min=2)
none("no_placeholders", "placeholders", lambda view: view.markup.placeholders, _NAMES)
none("no_markdown", "markdown elements", _markdown, ": headings, bold and italics, bullets, tables, code, links, quotes")


@check("headings", {"min": 2, "level": 2})
def headings(min: int = 1, max: int | None = None, level: int | None = None) -> Run:
    """From `min` to `max` markdown headings, of `level` where given."""
    if level is not None and not 1 <= level <= 6:
        raise ValueError(f"`level` must be from 1 to 6, got {level}")
    return count_between(lambda view: sum(level in (None, found) for found in view.markup.headings), "headings", min, max)


register("table", lambda: count_between(lambda view: view.markup.tables, "tables", 1, None), {},
         "A markdown table: a header line and a rule of as many cells.")  # fmt: skip


@check("code_block", {"language": "python"})
def code_block(language: str | None = None) -> Run:
    """A closed code fence, of `language` where given."""
    wanted = None if language is None else language.lower()
    unit = "code blocks" if wanted is None else f"{wanted} code blocks"
    return count_between(lambda view: sum(wanted in (None, name) for name, _ in view.markup.fences), unit, 1, None)


@rule("postscript", {"marker": "P.S."})
def _postscript(view: ResponseView, marker: str = "P.S.") -> Verdict:
    """A line starts with `marker`, whatever its case."""
    met = any(fold(line).lstrip(" \t*_>").startswith(fold(marker)) for line in view.lines)
    return verdict(met, f"{'a' if met else 'no'} line starts with {marker!r}")


@check("json", {"schema": {"type": "object", "required": ["name"]}})
def json_document(schema: dict[str, Any] | None = None) -> Run:
    """The whole response is valid JSON (one code fence around it is fine) and fits the JSON schema `schema`."""
    validator = None if schema is None else _validator(schema)

    def run(view: ResponseView) -> Verdict:
        text = view.stripped
        if text[:3] == text[-3:] and text[:3] in ("```", "~~~") and len(view.markup.fences) == 1:
            text = view.markup.fences[0][1]
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
