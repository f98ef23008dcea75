"""From a file to numbered raw rows and back: JSON lines, a JSON list, parquet; data sets are read by their own module."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_focal.rubrics.errors import RubricError
from lightning_focal.rubrics.readers.hub import DatasetSource

__all__ = ["SUFFIXES", "raw_rows"]

RawRow = tuple[int, str, Any]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RubricError(
            str(path), "file", "UTF-8 text", f"byte {error.object[error.start]:#04x} at offset {error.start}"
        ) from None


def _json_lines(path: Path) -> Iterator[RawRow]:
    # split at "\n" alone: JSON strings may hold other line separators as they are
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield number, where, json.loads(line)
        except json.JSONDecodeError as error:
            yield number, where, RubricError(where, "", f"JSON ({error.msg} at column {error.colno})", line)


def _json_list(path: Path) -> Iterator[RawRow]:
    text = _read_text(path)
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        raise RubricError(f"{path}:{error.lineno}", "file", f"JSON ({error.msg} at column {error.colno})", line) from None
    if not isinstance(rows, list):
        raise RubricError(str(path), "file", "a JSON list of rows", rows)
    for number, row in enumerate(rows, start=1):
        yield number, f"{path}: row {number}", row


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise RubricError(str(path), "file", f"parquet ({error})", path.read_bytes()[:8]) from None
    for number, row in enumerate(rows, start=1):
        yield number, f"{path}: row {number}", row


SUFFIXES: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
}
"""Readers by file name suffix."""


def raw_rows(path: Path) -> list[RawRow]:
    """Read ``(line, where, row)`` of every row; a row that is not JSON stands there as the error itself.

    Args:
        path: a file, or a data set: see :class:`~lightning_focal.rubrics.readers.hub.DatasetSource`.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: on an unknown suffix, or a file that is empty or cannot be parsed at all.
    """
    dataset = DatasetSource.of(path)
    if dataset is not None:
        rows = list(dataset.rows())
        if not rows:
            raise RubricError(str(path), "path", "a data set with at least one row", "an empty one")
        return rows
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must be an existing rubric file, got {str(path)!r} (looked in {Path.cwd()}); "
            "a data set of the hub is written hf:owner/name"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise RubricError(str(path), "path", f"a file that ends in {', '.join(SUFFIXES)}", path.name)
    rows = list(SUFFIXES[path.suffix.lower()](path))
    if not rows:
        raise RubricError(str(path), "file", "at least one row", f"{path.stat().st_size} bytes without a row")
    return rows
