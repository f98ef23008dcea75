"""Finished rows on disk at once: what is left to do is known after any end, a `kill -9` included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

__all__ = ["Journal"]


class Journal:
    """A file of JSON lines: a header that says what the work is, then one line for each finished row.

    A line is written whole and flushed before the next row is looked at. A process that dies in the middle of a line leaves a
    torn one: it is cut off when the journal is opened again, and its row is done again.

    Args:
        path: of the file; made if it is not there.
        header: what the work is: two journals with different headers are different work, unless nothing is finished yet.

    Attributes:
        entries: finished rows by their ``id``.
        repaired: True where a torn line was cut off.

    Raises:
        ValueError: if the file is no journal, or one of other work; the message says what differs.
        RuntimeError: if another process is at work on it.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, dict[str, Any]] = {}
        self.repaired = False
        self._file: BinaryIO = self.path.open("a+b")
        try:
            self._lock()
            self._read(json.loads(json.dumps(header)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write down that the row ``entry["id"]`` is finished."""
        self._write(entry)
        self.entries[entry["id"]] = dict(entry)

    def _write(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when the process ends, however it ends
        except OSError:
            raise RuntimeError(f"{self.path}: another process is at work on it") from None

    def _read(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        whole, newline, torn = self._file.read().rpartition(b"\n")
        if torn:
            self.repaired = True
            self._file.truncate(len(whole) + len(newline))
        if not newline:
            self._write(header)
            return
        first, *rest = whole.split(b"\n")
        if not rest:  # nothing was finished: what it was to be does not matter
            self._file.truncate(0)
            self._write(header)
            return
        there = self._parse(1, first)
        if "input" not in there or "settings" not in there:
            raise ValueError(f"{self.path} must be a journal of `lightning_focal rephrase`, its first line is {first[:80]!r}")
        if there != header:
            raise ValueError(
                f"{self.path} was begun with {'; '.join(_differences(there, header))}: go on as it was begun, or name another `--out`"
            )
        for number, line in enumerate(rest, start=2):
            entry = self._parse(number, line)
            self.entries[str(entry.get("id"))] = entry

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{self.path}:{number}: the journal is damaged, expected a JSON object, got {line[:80]!r}")
        return content


def _differences(there: Mapping[str, Any], header: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say in words where two headers differ."""
    said = []
    for name in sorted({*there, *header}):
        before, now = there.get(name), header.get(name)
        if before == now:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            said += _differences(before, now, "" if name == "settings" else f"{name} ")
        else:
            said.append(f"{prefix}{name} {_short(before)}, now it is {_short(now)}")
    return said


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
