"""From rows back to a file, every field as it was read."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_focal.files import write_json, write_parquet, write_text
from lightning_focal.rubrics.criterion import Criterion
from lightning_focal.rubrics.readers.base import RubricRow

__all__ = ["to_row", "write_rows"]


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
    made: dict[str, Any] = {"name": criterion.name, "description": criterion.description, "points": criterion.points}
    if criterion.tags:
        made["tags"] = list(criterion.tags)
    if criterion.check is not None:
        made["check"] = dict(criterion.check)
    if criterion.required:
        made["required"] = True
    if (criterion.low, criterion.high) != (0.0, 1.0):
        made |= {"low": criterion.low, "high": criterion.high}
    return made


def write_rows(path: str | Path, rows: Sequence[RubricRow]) -> None:
    """Write rows so that reading them gives the same rows; the file is there whole or not at all.

    A row without an id of its own is called by its file and line, so by the new ones. Parquet has one type a column and fills
    absent fields with nulls, which count as absent when read.

    Args:
        path: ends in ``.jsonl``, ``.ndjson``, ``.json`` or ``.parquet``.
        rows: at least one.

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
        _write_parquet(path, written)
    else:
        raise ValueError(f"`path` must end in .jsonl, .ndjson, .json or .parquet, got {path.name!r}")


def _write_parquet(path: Path, written: list[dict[str, Any]]) -> None:
    import pyarrow

    columns = dict.fromkeys(key for row in written for key in row)  # those of all rows: arrow looks at the first alone
    try:
        write_parquet(path, [{key: row.get(key) for key in columns} for row in written])
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"`rows` must have one type a column to be written as parquet ({error}): write .jsonl") from error
