"""Read a rubric file whose format is recognised by its fields, and write rows back, every field as it was read."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_focal.files import write_json, write_parquet, write_text
from lightning_focal.rubrics.criterion import Criterion, Rubric, RubricError
from lightning_focal.rubrics.readers.base import FORMATS, RubricFormat, RubricRow
from lightning_focal.rubrics.readers.files import DatasetSource, RawRow, raw_rows, stem_of, warn_of_skipped
from lightning_focal.types import Message

__all__ = ["Reading", "read_all", "read_rows", "read_rubrics", "to_row", "write_rows"]

_MOST_LOOKED_AT = 100

Check = Callable[[Criterion], None]


@dataclass(frozen=True)
class Reading:
    """What a rubric file holds: its format, the good rows in file order, and one error a bad row."""

    format: RubricFormat
    rows: tuple[RubricRow, ...]
    problems: tuple[RubricError, ...]

    @property
    def total(self) -> int:
        """Number of rows, bad ones included."""
        return len(self.rows) + len(self.problems)


def read_all(path: str | Path, rubric_format: str | None = None, *, stop: bool = False, check: Check | None = None) -> Reading:
    """Read every row of a rubric file, and what is wrong with the malformed ones; see :func:`read_rows`. ``stop`` raises the first problem."""
    path = Path(path)
    raw = raw_rows(path)
    chosen = _recognise(raw, rubric_format)
    dataset = DatasetSource.of(path)
    stem = stem_of(path) if dataset is None else Path(dataset.name).name
    rows: dict[str, RubricRow] = {}
    places: dict[str, str] = {}
    problems: list[RubricError] = []
    for number, where, row in raw:
        try:
            parsed = _parse(chosen, row, where, f"{stem}:{number}")
            if check is not None:
                for criterion in parsed.rubric.criteria:
                    _expect_sound(criterion, check)
            if parsed.id in rows:
                raise RubricError(where, "id", f"unique in the file (first at {places[parsed.id]})", parsed.id)
        except RubricError as error:
            if stop:
                raise
            problems.append(error)
        else:
            rows[parsed.id], places[parsed.id] = parsed, where
    return Reading(chosen, tuple(rows.values()), tuple(problems))


def read_rows(
    path: str | Path, on_bad_row: Literal["error", "skip"] = "error", rubric_format: str | None = None, check: Check | None = None
) -> list[RubricRow]:
    """Read every row of a rubric file.

    The format is that of the first row that looks like one of :data:`~lightning_focal.rubrics.FORMATS`; one file, one format.
    The plain one, which asks for least, is taken where no row looks like another.

    Args:
        path: ``.jsonl``, ``.ndjson``, ``.json``, ``.csv`` or ``.parquet``, each also as ``.gz``; or a data set of the ``datasets`` library:
            ``hf:owner/name[:config][@split]``, a folder of data files or one saved by ``save_to_disk`` (``folder[@split]``).
        on_bad_row: ``error`` refuses the file at its first bad row; ``skip`` logs how many rows are left out and which, with the first reason.
        rubric_format: name of the format, or None to recognise it.
        check: asked about every criterion (:meth:`RuleJudge.validate <lightning_focal.judges.RuleJudge.validate>`, say): a row is
            bad, too, if it raises ValueError. One whose cause is a missing package or missing data is raised.

    Returns:
        The rows in file order. Ids are the rows' own, or ``<file stem>:<line>``: the same at every reading.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: on a file that cannot be read, an unknown format, a malformed row or a repeated id, naming file, line and
            field, what was expected and what stood there; also where ``skip`` leaves no row at all.
        ValueError: on an unknown ``on_bad_row`` or ``rubric_format``.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "tiny.jsonl"
    >>> _ = file.write_text('{"prompt": "Say hi.", "rubric": [{"name": "short", "check": {"kind": "max_words", "words": 5}}]}')
    >>> [(row.id, row.rubric.names) for row in read_rows(file)]
    [('tiny:1', ('short',))]
    """
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"`on_bad_row` must be 'error' or 'skip', got {on_bad_row!r}")
    found = read_all(path, rubric_format, stop=on_bad_row == "error", check=check)
    bad = found.problems
    if bad and not found.rows:
        expected = f"rubrics with at least one good row (the first bad one: {bad[0]})"
        raise RubricError(str(path), "file", expected, f"{len(bad)} bad rows")
    if bad:
        warn_of_skipped(path, bad, found.total)
    return list(found.rows)


def read_rubrics(path: str | Path, on_bad_row: Literal["error", "skip"] = "error") -> list[tuple[tuple[Message, ...], Rubric]]:
    """Read a rubric file as ``(prompt, rubric)`` pairs; see :func:`read_rows`."""
    return [(row.messages, row.rubric) for row in read_rows(path, on_bad_row)]


def _recognise(raw: list[RawRow], rubric_format: str | None) -> RubricFormat:
    if rubric_format is not None:
        if rubric_format not in FORMATS:
            raise ValueError(f"`rubric_format` must be one of {', '.join(FORMATS)}, got {rubric_format!r}")
        return FORMATS[rubric_format]
    mappings = [row for _, _, row in raw if isinstance(row, Mapping)]
    special = [known for known in FORMATS.values() if known.name != "plain"]
    for rows, candidates in ((mappings[:_MOST_LOOKED_AT], special), (mappings, [FORMATS["plain"]])):
        if chosen := next((known for row in rows for known in candidates if known.matches(row)), None):
            return chosen
    if broken := next((row for _, _, row in raw if isinstance(row, RubricError)), None):
        raise broken
    if not mappings:
        raise RubricError(raw[0][1], "", f"a mapping in a known format ({', '.join(FORMATS)})", raw[0][2])
    row = mappings[0]
    lacks = {known.name: known.lacks(row) for known in FORMATS.values()}
    begun = [known for known in FORMATS.values() if len(lacks[known.name]) < len(known.signs)] or [FORMATS["plain"]]
    common = {*"|".join(FORMATS["plain"].signs).split("|")}

    def nearness(known: RubricFormat) -> tuple[float, bool, bool]:
        own = {part for sign in known.signs if sign not in lacks[known.name] for part in sign.split("|")} - common
        return len(known.signs) - 1.5 * len(lacks[known.name]), bool(own), known.name == "plain"

    nearest = max(begun, key=nearness)
    asked = " and ".join(" or ".join(sign.split("|")[:2]) for sign in lacks[nearest.name])
    expected = f"in a known format: nearest is {nearest.name} ({nearest.fields}), and the row lacks {asked}"
    raise RubricError(raw[0][1], "", expected, f"fields {', '.join(map(str, row)) or 'none'}")


def _expect_sound(criterion: Criterion, check: Check) -> None:
    try:
        check(criterion)
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, (ImportError, LookupError, OSError)):
                raise
            last, cause = cause, cause.__cause__
        raise RubricError(criterion.where, "check", f"one that can be made ({last})", criterion.check) from error


def _parse(chosen: RubricFormat, row: object, where: str, default_id: str) -> RubricRow:
    if isinstance(row, RubricError):
        raise row
    if not isinstance(row, Mapping):
        raise RubricError(where, "", "a mapping", row)
    parsed = chosen.parse({key: value for key, value in row.items() if value is not None}, where, default_id)
    return replace(parsed, format=chosen.name, raw=row)


def to_row(row: RubricRow) -> dict[str, Any]:
    """Return a row as its format writes it: the fields that were read, unknown ones included; the plain format for one made here.

    >>> from lightning_focal.rubrics import Rubric
    >>> to_row(RubricRow("a", ({"role": "user", "content": "Hi"},), Rubric((Criterion("kind", "Is kind.", 2),))))["rubric"]
    [{'name': 'kind', 'description': 'Is kind.', 'points': 2.0}]
    """
    if row.raw:
        return copy.deepcopy(dict(row.raw))
    made: dict[str, Any] = {"id": row.id, "prompt": [dict(turn) for turn in row.messages]}
    if row.answer is not None:
        made["answer"] = row.answer
    return {**row.extra, **made, "rubric": [_entry(criterion) for criterion in row.rubric.criteria]}


def _entry(criterion: Criterion) -> dict[str, Any]:
    fields = {each.name: (getattr(criterion, each.name), each.default) for each in dataclasses.fields(Criterion) if each.compare}
    always = ("name", "description", "points")
    kept = {name: value for name, (value, default) in fields.items() if value != default or name in always}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def write_rows(path: str | Path, rows: Sequence[RubricRow]) -> None:
    """Write rows, at least one, to ``.jsonl``, ``.ndjson``, ``.json`` or ``.parquet``, so that reading them gives the same rows.

    The file is there whole or not at all. A row without an id of its own is called by its file and line, so by the new ones. Parquet has
    one type a column and fills absent fields with nulls, which count as absent when read.

    Raises:
        ValueError: on another ending, no rows, or rows that parquet cannot hold.
    """
    path = Path(path)
    if not rows:
        raise ValueError("`rows` must hold at least one row, got none")
    suffix, written = path.suffix.lower(), [to_row(row) for row in rows]
    if suffix in (".jsonl", ".ndjson"):
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
    elif suffix == ".json":
        write_json(path, written)
    elif suffix == ".parquet":
        import pyarrow

        columns = dict.fromkeys(key for row in written for key in row)  # those of all rows: arrow looks at the first alone
        try:
            write_parquet(path, [{key: row.get(key) for key in columns} for row in written])
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"`rows` must have one type a column to be written as parquet ({error}): write .jsonl") from error
    else:
        raise ValueError(f"`path` must end in .jsonl, .ndjson, .json or .parquet, got {path.name!r}")
