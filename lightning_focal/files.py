"""Files written beside and renamed: one that is there is whole."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_figure", "write_json", "write_parquet", "write_text", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk and give it its name; what stood there before stays until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every system lets a folder be flushed; the new name then outlives no power cut
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write text."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


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
        schema: a ``pyarrow.Schema``, for several files that are read as one; None = what the rows show.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_whole(path, lambda beside: pq.write_table(pa.Table.from_pylist(rows, schema=schema), beside, compression="zstd"))


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure."""
    write_whole(path, lambda beside: figure.savefig(beside, dpi=150, bbox_inches="tight"))
