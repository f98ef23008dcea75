"""Verdicts kept on disk: a table in SQLite, shared by processes, whole after a crash, of bounded size."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_focal.judges.base import Outcome, Verdict

__all__ = ["VerdictCache"]

_log = logging.getLogger(__name__)

_TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (
    key BLOB PRIMARY KEY,
    outcome TEXT NOT NULL,
    value REAL,
    reason TEXT NOT NULL,
    used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS verdicts_used ON verdicts (used);
"""
_MARK = 0x4C465643  # "LFVC": tells a cache from any other database
_SMALLEST = 1 << 16
_STALE_S = 3600  # a verdict that was used within this time is not marked as used again
_CHUNK = 500  # keys asked for at once
_inherited: list[sqlite3.Connection] = []  # of the process that forked this one: to be left alone, not even closed


class VerdictCache:
    """Remembers verdicts by key.

    A verdict is on disk once :meth:`put` returns: the end of this process, however sudden, does not touch it (the end of the whole
    machine may cost the last ones, never the file). Processes on one machine share a file; on a network file system each
    needs its own. Errors are not kept. What was not used for longest goes when the file reaches its size.

    A file that cannot be read or written during a run costs the verdicts it holds, not the run: this is logged once.

    Args:
        path: of the file; its folder is made. SQLite keeps two more beside it, ``-wal`` and ``-shm``.
        max_bytes: size of the file, at least 64 KiB. That of ``-wal`` comes on top, about 4 MiB.
        wait_s: longest wait for another process that writes, in seconds.

    Raises:
        ValueError: if ``max_bytes`` or ``wait_s`` is too small, or the file is something else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = VerdictCache(f"{folder}/verdicts.sqlite")
    ...     cache.put({b"a": Verdict(Outcome.MET, reason="says so"), b"b": Verdict(Outcome.ERROR)})
    ...     cache.get([b"a", b"b", b"c"])
    {b'a': Verdict(outcome=<Outcome.MET: 'met'>, value=None, reason='says so')}
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int = 1 << 30, wait_s: float = 10.0) -> None:
        if max_bytes < _SMALLEST:
            raise ValueError(f"`max_bytes` must be >= {_SMALLEST}, got {max_bytes}")
        if not wait_s > 0:
            raise ValueError(f"`wait_s` must be > 0 seconds, got {wait_s}")
        self.path, self.max_bytes, self.wait_s = Path(path), int(max_bytes), float(wait_s)
        self._connection: sqlite3.Connection | None = None
        self._owner, self._lock, self._warned = 0, threading.RLock(), False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock:
                self._open()
        except sqlite3.Error as error:
            raise ValueError(f"`cache` must be a file of verdicts, or none yet, got {str(self.path)!r} ({error})") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in self.__dict__.items() if k != "_lock"}, "_connection": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Verdict]:
        """Return what is known of ``keys``."""
        wanted, found, stale = list(dict.fromkeys(keys)), dict[bytes, Verdict](), list[tuple[int, bytes]]()
        now = int(time.time())
        with self._lock:
            try:
                for first in range(0, len(wanted), _CHUNK):
                    chunk = wanted[first : first + _CHUNK]
                    marks = ",".join("?" * len(chunk))
                    rows = self._open().execute(
                        f"SELECT key, outcome, value, reason, used FROM verdicts WHERE key IN ({marks})", chunk
                    )
                    for key, outcome, value, reason, used in rows:
                        found[key] = Verdict(Outcome(outcome), value, reason)
                        if used < now - _STALE_S:
                            stale.append((now, key))
                if stale:
                    with self._open() as connection:
                        connection.executemany("UPDATE verdicts SET used = ? WHERE key = ?", stale)
            except (sqlite3.Error, ValueError, TypeError) as error:
                self._warn("read", error)
        return found

    def put(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Keep verdicts, in one transaction; errors are left out."""
        now = int(time.time())
        rows = [(k, v.outcome.value, v.value, v.reason, now) for k, v in verdicts.items() if v.outcome is not Outcome.ERROR]
        if not rows:
            return
        with self._lock:
            try:
                with self._open() as connection:
                    connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)", rows)
                    self._shrink(connection)
            except (sqlite3.Error, ValueError) as error:
                self._warn("written", error)

    def __len__(self) -> int:
        with self._lock:
            return int(self._open().execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
            self._connection = None

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Drop what was not used for longest where the pages in use are more than the size allows."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size <= 0.9 * self.max_bytes:
            return
        count = connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]
        oldest = "SELECT key FROM verdicts ORDER BY used LIMIT ?"
        connection.execute(f"DELETE FROM verdicts WHERE key IN ({oldest})", (max(1, count // 10),))

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner != os.getpid():
            _inherited.append(self._connection)
            self._connection = None
        until = time.monotonic() + self.wait_s
        while self._connection is None:
            try:
                self._connection, self._owner = self._connect(), os.getpid()
            except sqlite3.OperationalError as error:  # two processes that make the file at once do not wait for each other
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self.wait_s, check_same_thread=False)  # many threads, one lock
        try:
            mark = connection.execute("PRAGMA application_id").fetchone()[0]
            if mark not in (0, _MARK) or (not mark and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]):
                raise sqlite3.DatabaseError("a database of something else")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if not mark:
                connection.executescript(f"BEGIN IMMEDIATE; {_TABLE} PRAGMA application_id = {_MARK}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _warn(self, what: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the cache of verdicts %s cannot be %s (%s): the run goes on without it", self.path, what, error)
