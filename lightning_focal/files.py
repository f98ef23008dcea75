"""Files written beside and renamed: one that is there is whole."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "SetAside",
    "set_aside_of",
    "why_unreadable",
    "write_figure",
    "write_json",
    "write_parquet",
    "write_text",
    "write_whole",
]

_log = logging.getLogger(__name__)


def why_unreadable(path: Path, keys: bool = True) -> str | None:
    """Return why a YAML file, or one that it names, cannot be read, with the file's name and the line; None where all can be.

    Args:
        path: of an existing file.
        keys: it must hold keys and values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return f"{path} is no text in UTF-8 (byte {error.start})"
    except yaml.MarkedYAMLError as error:
        return f"{path}, line {error.problem_mark.line + 1 if error.problem_mark else '?'}, is no YAML: {error.problem}"
    except yaml.YAMLError as error:
        return f"{path} is no YAML: {str(error).splitlines()[0]}"
    if keys and not isinstance(content, dict):
        return f"{path} must hold keys and their values, got {'nothing' if content is None else repr(content)[:60]}"
    parts = [content]
    for part in parts:  # grows
        parts += [*part.values()] if isinstance(part, dict) else part if isinstance(part, list) else []
    named = [path.parent / part for part in parts if isinstance(part, str) and part.endswith((".yaml", ".yml"))]
    return next((why for other in named if other.is_file() and (why := why_unreadable(other, keys=False))), None)


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


class SetAside:
    """Where a run that goes on keeps what it is about to write anew: ``FOLDER/set_aside/after_batch_N``, made at first use.

    What an earlier start has set aside behind the same batch stays where it is: a number is put behind the name.

    Args:
        folder: the run folder.
        batch: rollout batches that the run goes on behind.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> for _ in range(2):
    ...     write_text(folder / "rollouts" / "train-000004-r0.parquet", "recorded")
    ...     SetAside(folder, 4).keep(folder / "rollouts" / "train-000004-r0.parquet")
    >>> sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("*.parquet"))
    ['set_aside/after_batch_4-2/rollouts', 'set_aside/after_batch_4/rollouts']
    """

    def __init__(self, folder: str | Path, batch: int) -> None:
        self.folder, self.batch = Path(folder), batch
        self._place: Path | None = None

    def place_for(self, path: Path) -> Path:
        """Return where a file of the folder is kept."""
        number = 1
        while self._place is None:
            place = self.folder / "set_aside" / f"after_batch_{self.batch}{f'-{number}' if number > 1 else ''}"
            number += 1
            if not place.exists():
                place.mkdir(parents=True)
                self._place = place
                _log.warning(
                    "recorded behind batch %d before this start, and about to be written anew: kept in %s", self.batch, place
                )
        target = self._place / (path.relative_to(self.folder) if path.is_relative_to(self.folder) else path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def keep(self, path: Path, copy: bool = False) -> None:
        """Move a file, or a folder, there; with ``copy`` a file stays where it is, too."""
        target = self.place_for(path)
        shutil.copy2(path, target) if copy else os.replace(path, target)

    def keep_longer(self, path: Path, key: str, kept: int) -> None:
        """Copy a JSON file there whose list under ``key`` holds more than the ``kept`` entries a run goes on with."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is broken
            if len(json.loads(path.read_text(encoding="utf-8"))[key]) > kept:
                self.keep(path, copy=True)


def set_aside_of(trainer: Any, folder: str | Path, batch: int) -> SetAside:
    """Return where this start of a run keeps things: the same place for all its callbacks, where its first one has named it."""
    found = (getattr(callback, "set_aside", None) for callback in trainer.callbacks)
    return next((place for place in found if isinstance(place, SetAside) and place.batch == batch), SetAside(folder, batch))
