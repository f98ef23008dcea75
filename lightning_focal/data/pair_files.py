"""Read files of questions and of pairs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from lightning_focal.data.pair_layouts import LAYOUTS, PairLayout, PairRow
from lightning_focal.functional.choices import expect_choice
from lightning_focal.rubrics import RubricError
from lightning_focal.rubrics.readers.files import raw_rows

__all__ = ["read_pairs", "read_questions", "same_label"]

_log = logging.getLogger(__name__)
_NUMBER = re.compile(r"[-+]?[0-9]{1,100}(\.[0-9]{1,100})?(/[0-9]{1,100})?")

Parsed = PairRow | RubricError


def read_questions(path: str | Path, on_bad_row: Literal["error", "skip"] = "error") -> list[PairRow]:
    """Read the questions of a file; a rephrasing beside them is not looked at.

    The layout is that of the first row that looks like one of :data:`LAYOUTS`; one file, one layout.

    Args:
        path: ``.jsonl``, ``.ndjson``, ``.json`` (a list) or ``.parquet``.
        on_bad_row: ``error`` refuses the file at its first malformed row; ``skip`` leaves such rows out and logs how many, with
            the first reason.

    Returns:
        The rows in file order. Ids are the rows' own, or ``<file stem>:<line>``: the same at every reading.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: (a ValueError) on a file that cannot be read, an unknown layout, a malformed row or a repeated id, naming
            file, line and field, what was expected and what stood there; also where ``skip`` leaves no row at all.
    """
    return _good(Path(path), _parsed(Path(path), both=False)[1], on_bad_row, both=False)


def read_pairs(
    path: str | Path, rephrased: str | Path | None = None, on_bad_row: Literal["error", "skip"] = "error"
) -> list[PairRow]:
    """Read questions with their rephrasings: both in one file, or in two whose rows are aligned.

    Args:
        path: see :func:`read_questions`.
        rephrased: the file of the rephrasings, row by row; None = they stand in ``path``.
        on_bad_row: see :func:`read_questions`. A pair is left out if either side is malformed or their labels differ. Files of
            unequal length and ids that do not agree are an error in any case.

    Returns:
        The pairs in file order.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: as :func:`read_questions`; and where a rephrasing is missing, the two files have different numbers of rows,
            the ids that they give differ, or a pair's two sides carry different labels, see :func:`same_label`.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "tiny.jsonl"
    >>> _ = file.write_text('{"question": "1 + 1?", "rephrased": "Add one to one.", "answer": 2}')
    >>> row = read_pairs(file)[0]
    >>> row.id, row.rephrased[-1]["content"], row.answer
    ('tiny:1', 'Add one to one.', '2')
    """
    path = Path(path)
    layout, rows = _parsed(path, both=True)
    if rephrased is None:
        return _good(path, [_expect_both(row, layout) for row in rows], on_bad_row, both=True)
    other = Path(rephrased)
    others = _parsed(other, both=True)[1]
    if len(rows) != len(others):
        raise RubricError(
            str(other), "file", f"as many rows as {path} has ({len(rows)}): the two are aligned by row", len(others)
        )
    return _good(path, [_joined(row, its) for row, its in zip(rows, others, strict=True)], on_bad_row, both=True)


def same_label(first: str | None, second: str | None) -> bool:
    """Say whether two gold answers agree: the same string after stripping, or the same plain number; unknown agrees with all.

    >>> same_label("0.5", " 1/2 "), same_label("3", "4"), same_label("x", None)
    (True, False, True)
    """
    if first is None or second is None or first.strip() == second.strip():
        return True
    values = [_value(label.strip()) for label in (first, second)]
    return values[0] is not None and values[0] == values[1]


def _value(label: str) -> Fraction | None:
    if not _NUMBER.fullmatch(label):
        return None
    over, _, under = label.partition("/")
    divisor = int(under or "1")
    return Fraction(over) / divisor if divisor else None


def _parsed(path: Path, both: bool) -> tuple[PairLayout, list[Parsed]]:
    """Return the layout and every row, or what is wrong with it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} (looked in {Path.cwd()})")
    raw = raw_rows(path)
    layout = _recognise([(where, row) for _, where, row in raw])
    rows: list[Parsed] = []
    for number, where, row in raw:
        try:
            if isinstance(row, RubricError):
                raise row
            if not isinstance(row, Mapping):
                raise RubricError(where, "", "a mapping", row)
            known = {name: value for name, value in row.items() if value is not None}
            rows.append(layout.parse(known, where, f"{path.stem}:{number}", both))
        except RubricError as error:
            rows.append(error)
    return layout, rows


def _recognise(rows: Sequence[tuple[str, Any]]) -> PairLayout:
    mappings = [row for _, row in rows if isinstance(row, Mapping)]
    for row in mappings:
        for layout in LAYOUTS:
            if layout.matches({name: value for name, value in row.items() if value is not None}):
                return layout
    broken = next((row for _, row in rows if isinstance(row, RubricError)), None)
    if broken is not None:
        raise broken
    known = "; ".join(f"{layout.name}: {layout.fields}" for layout in LAYOUTS)
    where, first = rows[0]
    got = f"fields {', '.join(map(str, first)) or 'none'}" if isinstance(first, Mapping) else first
    raise RubricError(where, "", f"in a known layout ({known})", got)


def _expect_both(row: Parsed, layout: PairLayout) -> Parsed:
    if isinstance(row, RubricError) or row.rephrased is not None:
        return row
    missing = {"released pairs": "rephrased_question", "plain": "rephrased"}.get(layout.name, "rephrased")
    return RubricError(
        row.where,
        missing,
        "given: a pair has both sides (`lightning_focal rephrase` writes the second one; a row-aligned file of rephrasings is "
        "named by `train_rephrased`; `pairs: false` trains on the originals alone)",
        "nothing",
    )


def _joined(row: Parsed, other: Parsed) -> Parsed:
    """Make a pair of a row and the row of the second file that stands in its place."""
    if isinstance(row, RubricError):
        return row
    if isinstance(other, RubricError):
        return other
    if row.key is not None and other.key is not None and row.key != other.key:
        raise RubricError(other.where, "id", f"{row.key!r} as at {row.where}: the two files are aligned by row", other.key)
    for side in (row, other):
        if side.rephrased is not None:
            return RubricError(side.where, "", "one side of a pair, as there is a second file", "a row that holds both sides")
    if not same_label(row.answer, other.answer):
        return RubricError(other.where, "answer", f"{row.answer!r} as at {row.where}: both sides have one label", other.answer)
    return replace(row, rephrased=other.messages, answer=row.answer if row.answer is not None else other.answer)


def _good(path: Path, rows: Sequence[Parsed], on_bad_row: str, both: bool) -> list[PairRow]:
    """Return the rows in order; raise at the first bad one, or leave bad ones out and say so."""
    expect_choice("on_bad_row", on_bad_row, ("error", "skip"))
    good: list[PairRow] = []
    taken: dict[str, str] = {}
    bad: list[RubricError] = []
    for row in rows:
        error = row if isinstance(row, RubricError) else None
        if isinstance(row, PairRow):
            names = [row.id, f"{row.id}/rephrased"] if both else [row.id]
            twice = next((name for name in names if name in taken), None)
            if twice is None:
                good.append(row)
                taken.update(dict.fromkeys(names, row.where))
                continue
            error = RubricError(row.where, "id", f"unique in the file (first at {taken[twice]})", row.id)
        if error is not None and on_bad_row == "error":
            raise error
        bad += [error] if error is not None else []
    if not good:
        raise RubricError(
            str(path), "file", f"rows of which at least one is good (the first bad one: {bad[0]})", f"{len(bad)} bad rows"
        )
    if bad:
        _log.warning("%s: skipped %d of %d rows; the first: %s", path, len(bad), len(rows), bad[0])
    return good
