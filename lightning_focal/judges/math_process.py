"""Asks math-verify in a process of its own, which can be stopped whatever it is doing."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["NOTHING_READ", "Comparison", "Reply", "compare_texts", "stop_process"]

NOTHING_READ = "nothing to read"
"""The error of a text in which math-verify finds no formula."""

_SCRIPT = Path(__file__).with_name("math_worker.py")
_START_SECONDS = 120.0
_TRIES = 2
_WALL_FACTOR = 10.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Comparison(StrEnum):
    """How the comparison of two answers came out; all but ``EQUAL`` count as different."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"
    CUT_OFF = "cut_off"


@dataclass(frozen=True)
class Reply:
    """What the process said.

    Args:
        comparison: the result.
        unread: ``"gold"`` or ``"given"``: the text that could not be read, or whose reading was cut off; empty if neither.
        error: why the pair is undecided, in a word.
        shown: the given answer as math-verify read it, at most 60 characters; one-way comparisons alone.
    """

    comparison: Comparison
    unread: str = ""
    error: str = ""
    shown: str = ""


class _Process:
    """The running process and its two pipes."""

    def __init__(self) -> None:
        # -P: the folder of the script holds modules whose names must not hide the standard library's.
        self.popen = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **dict.fromkeys(_THREADS, "1")},
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._requests, self._replies = self.popen.stdin, self.popen.stdout
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self._received = b""

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; raises BrokenPipeError if the process is gone."""
        data = memoryview((json.dumps(request) + "\n").encode())
        while data:
            data = data[self._requests.write(data) or 0 :]

    def receive(self, until: float) -> dict[str, Any] | None:
        """Wait for a line until ``time.monotonic()`` reaches ``until``; None if none came, EOFError if the process is gone."""
        while b"\n" not in self._received:
            left = until - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                return None
            received = self._replies.read(1 << 16)
            if not received:
                raise EOFError
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)  # type: ignore[no-any-return]

    def stop(self) -> int:
        """End the process for certain and leave nothing of it; returns its exit status, the negative signal if one ended it."""
        with contextlib.suppress(OSError):
            self.popen.kill()
        status = self.popen.wait()
        self.forget()
        return status

    def forget(self) -> None:
        """Close this side of the pipes."""
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()


_lock = threading.Lock()
_process: _Process | None = None


def compare_texts(gold: str, given: str, seconds: float, both: bool) -> Reply:
    """Compare what math-verify reads in two texts; may be called from any thread.

    The process is started by the first call (about a second, which is not counted) and serves all later ones of this process; a
    process forked from this one starts its own.

    Args:
        gold: text with the expected formula.
        given: text with the formula to compare.
        seconds: CPU time after which the comparison is cut off; the wall clock stops what uses none, ten times later.
        both: True: two formulas, equal if math-verify says so whichever of them is the gold one. False: ``gold`` is the gold one,
            and a text without a formula may hold a number instead.

    Raises:
        RuntimeError: if the process cannot be started.
    """
    request = {"gold": gold, "given": given, "seconds": seconds, "both": both}
    with _lock:
        for _ in range(_TRIES):
            try:
                reply = _ask(request, _WALL_FACTOR * (seconds + 0.5))
            except BaseException:  # Ctrl-C while waiting: the next request must not get this one's answer
                _stop()
                raise
            # A process that died of something else than its time limit may have been ended from outside: once more, afresh.
            if reply is not None:
                return reply
        return Reply(Comparison.UNDECIDED, error=f"the process died {_TRIES} times")


def _ask(request: dict[str, Any], wall_seconds: float) -> Reply | None:
    process = _running()
    read = 0
    try:
        process.send(request)
        until = time.monotonic() + wall_seconds
        while (line := process.receive(until)) is not None and line.get("read"):
            read += 1
    except (EOFError, BrokenPipeError):
        if _stop() != -signal.SIGPROF:
            return None
        line = None
    if line is None:
        _stop()
        return Reply(Comparison.CUT_OFF, unread=("gold", "given", "")[read])
    return Reply(Comparison(line["outcome"]), line.get("unread", ""), line.get("error", ""), line.get("shown", ""))


def _running() -> _Process:
    global _process
    if _process is not None and _process.popen.poll() is not None:
        _stop()
    if _process is None:
        _process = _Process()
        try:
            first = _process.receive(time.monotonic() + _START_SECONDS)
            why = f"no word from it in {_START_SECONDS:g} s" if first is None else first.get("failed", "")
        except EOFError:
            why = f"it ended with status {_process.popen.wait()}"
        if why:
            _stop()
            raise RuntimeError(f"the process that compares formulas did not start ({why}): {sys.executable} -P {_SCRIPT}")
    return _process


def _stop() -> int | None:
    global _process
    process, _process = _process, None
    # Whatever ended it by itself comes before the kill: a process that is gone cannot be killed.
    return None if process is None else process.stop()


def stop_process() -> None:
    """End the process if there is one; the next comparison starts another. Called at exit."""
    with _lock:
        _stop()


def _after_fork() -> None:
    # The process belongs to the parent; and a thread that held the lock does not exist here.
    global _lock, _process
    _lock = threading.Lock()
    if _process is not None:
        _process.popen.returncode = 0  # not ours to wait for
        _process.forget()
        _process = None


atexit.register(stop_process)
os.register_at_fork(after_in_child=_after_fork)
