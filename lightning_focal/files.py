"""Files written beside and renamed: one that is there is whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_figure", "write_json", "write_parquet", "write_text"]


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it gets its name
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write text."""
    _replace(path, lambda beside: _write(beside, text))


def write_json(path: Path, content: Any) -> None:
    """Write JSON; a number that is not finite becomes null, as the format knows none."""
    write_text(path, json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: Any = None) -> None:
    """Write rows as parquet.

    Args:
        path: where to.
        rows: one mapping a row.
        schema: a ``pyarrow.Schema``; None = from the rows. Name one where several files are read as one: a column that is
            empty throughout a file would otherwise have no type there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _replace(path, lambda beside: pq.write_table(pa.Table.from_pylist(rows, schema=schema), beside, compression="zstd"))


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure."""
    _replace(path, lambda beside: figure.savefig(beside, dpi=150, bbox_inches="tight"))
