"""Asks math-verify in a process of its own, which can be stopped whatever it is doing."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["Comparison", "Reply", "compare_texts", "stop_process"]

_SCRIPT = Path(__file__).with_name("math_worker.py")
_START_SECONDS = 120.0
_TRIES = 2
_WALL_FACTOR = 10.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Comparison(StrEnum):
    """How two answers compared; all but ``EQUAL`` count as different."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"
    CUT_OFF = "cut_off"


@dataclass(frozen=True)
class Reply:
    """What the process said; ``unread`` is ``gold`` or ``given``, whose reading failed or was cut off, ``error`` why a pair is undecided."""

    comparison: Comparison
    unread: str = ""
    error: str = ""


class _Process:
    """The running process and this end of its pipe."""

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        with theirs:
            self.popen = subprocess.Popen(
                # -P: the folder of the script holds modules whose names must not hide the standard library's.
                [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            )

    def stop(self) -> int:
        """End the process for certain and leave nothing of it; returns its exit status, the negative signal if one ended it."""
        with contextlib.suppress(OSError):
            self.popen.kill()
        status = self.popen.wait()
        self.pipe.close()
        return status


_lock = threading.Lock()
_process: _Process | None = None


def compare_texts(gold: str, given: str, seconds: float) -> Reply:
    r"""Compare two formulas in ``\boxed{...}``, either of which may be the gold one; may be called from any thread.

    The first call starts the process (about a second, not counted). A comparison is cut off after ``seconds`` of CPU time, or ten times as
    long on the clock.

    Raises:
        RuntimeError: if the process cannot be started.
    """
    with _lock:
        for _ in range(_TRIES):
            reply = _ask(gold, given, seconds)
            if reply is not None:
                return reply
    return Reply(Comparison.UNDECIDED, error=f"the process died {_TRIES} times")


def _ask(gold: str, given: str, seconds: float) -> Reply | None:
    """None if the process died of something else than its time limit: it may have been ended from outside."""
    process, formulas_read = _running(), 0
    until = time.monotonic() + _WALL_FACTOR * (seconds + 0.5)
    try:
        process.pipe.send((gold, given, seconds))
        while process.pipe.poll(max(0.0, until - time.monotonic())):
            result = process.pipe.recv()
            if result is not None:
                return Reply(**{**result, "comparison": Comparison(result["comparison"])})
            formulas_read += 1
        _stop()
    except (EOFError, OSError):
        if _stop() != -signal.SIGPROF:
            return None
    except BaseException:  # Ctrl-C while waiting: the next request must not get this one's answer
        _stop()
        raise
    return Reply(Comparison.CUT_OFF, unread=("gold", "given", "")[formulas_read])


def _running() -> _Process:
    global _process
    if _process is not None and _process.popen.poll() is not None:
        _stop()
    if _process is None:
        _process = _Process()
        try:
            why = _process.pipe.recv() if _process.pipe.poll(_START_SECONDS) else f"no word from it in {_START_SECONDS:g} s"
        except (EOFError, OSError):
            why = f"it ended with status {_process.popen.wait()}"
        except BaseException:
            _stop()
            raise
        if why:
            _stop()
            raise RuntimeError(f"the process that compares formulas did not start ({why}): {sys.executable} -P {_SCRIPT}")
    return _process


def _stop() -> int | None:
    global _process
    process, _process = _process, None
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
        _process.pipe.close()
        _process = None


atexit.register(stop_process)
os.register_at_fork(after_in_child=_after_fork)
