"""A process in which tools run side by side: each call in a fork of its own, which can be ended whatever it is doing."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple

__all__ = ["Result", "ToolProcess", "serve"]

_START_SECONDS = 120.0
_GRACE = 10.0  # seconds beyond a call's limit that the process itself may take


class Result(NamedTuple):
    """What became of a call: its value as text, what it raised, or that it was ended; ``length`` in characters before the cut."""

    kind: Literal["value", "error", "late"]
    text: str = ""
    length: int = 0


class ToolProcess:
    """Runs tools. The process is made at the first call and forks for each: no call sees what another one changed.

    The process imports what the tools' modules import, and nothing else: a fork of a small process takes little time.

    Args:
        tools: functions that can be pickled: of a module, or methods of an object that can be.

    Raises:
        ValueError: for a tool that cannot.
    """

    def __init__(self, tools: Sequence[Callable[..., Any]]) -> None:
        try:
            self._tools = pickle.dumps(list(tools))
        except Exception as error:  # whatever an object says of itself
            raise ValueError(f"`tools` must be functions of a module or methods of plain objects: {error}") from error
        self._popen: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def run(self, calls: Sequence[tuple[int, dict[str, Any]]], seconds: float, most: int) -> list[Result]:
        """Call tools, each given as its index and arguments, side by side; results are cut at ``most`` characters.

        Raises:
            RuntimeError: if the process cannot be started.
        """
        results: dict[int, Result] = {}
        if not calls:
            return []
        pipe, lost = self._running(), Result("late")
        try:
            pipe.send((calls, seconds, most))
            while len(results) < len(calls) and pipe.poll(seconds + _GRACE):
                place, *result = pipe.recv()
                results[place] = Result(*result)
        except (EOFError, OSError):
            lost = Result("error", "the tool ended its process")
        except BaseException:  # Ctrl-C while waiting: the next calls must not get the answers of these
            self.close()
            raise
        if len(results) < len(calls):
            self.close()
            if len(calls) > 1:  # one of them ended or stopped the process of all
                left = [place for place in range(len(calls)) if place not in results]
                results |= {place: self.run([calls[place]], seconds, most)[0] for place in left}
        return [results.get(place, lost) for place in range(len(calls))]

    def close(self) -> None:
        """End the process; a later call starts another."""
        if self._popen is not None and self._pipe is not None:
            self._popen.kill()
            self._popen.wait()
            self._pipe.close()
        self._popen = self._pipe = None

    def _running(self) -> Connection:
        if self._pipe is None:
            self._pipe, theirs = multiprocessing.Pipe()
            code = f"from {__name__} import serve; serve({theirs.fileno()})"
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            paths = os.pathsep.join(filter(None, sys.path))
            with theirs:
                self._popen = subprocess.Popen(
                    [sys.executable, "-c", code],
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the run
                    env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                    **quiet,  # type: ignore[call-overload]
                )
            self._pipe.send_bytes(self._tools)
            try:
                why = self._pipe.recv() if self._pipe.poll(_START_SECONDS) else f"no word from it in {_START_SECONDS:g} s"
            except (EOFError, OSError):
                why = "it ended"
            if why:
                self.close()
                raise RuntimeError(f"the process of the environment's tools did not start: {why}")
        return self._pipe


def serve(descriptor: int) -> None:
    """Answer calls until the other end of the pipe closes: the process itself."""
    pipe = Connection(descriptor)
    try:
        tools = pickle.loads(pipe.recv_bytes())
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError):
        while True:
            calls, seconds, most = pipe.recv()
            for place, result in _forked(tools, calls, seconds, most):
                pipe.send((place, *result))


def _forked(
    tools: Sequence[Callable[..., Any]], calls: Sequence[tuple[int, dict[str, Any]]], seconds: float, most: int
) -> Iterator[tuple[int, Result]]:
    """Run calls, each in a fork, as many at once as there are cores, at least two; each with its place, as they end."""
    left, running = deque(enumerate(calls)), dict[Connection, tuple[int, int, float]]()
    while left or running:
        while left and len(running) < max(2, os.cpu_count() or 1):
            place, (index, arguments) = left.popleft()
            ours, theirs = multiprocessing.Pipe(duplex=False)
            child = os.fork()
            if child == 0:
                os.setsid()
                theirs.send(tuple(_called(tools[index], arguments, most)))
                os._exit(0)
            theirs.close()
            running[ours] = place, child, time.monotonic() + seconds
        ready = wait([*running], max(0.0, min(until for _, _, until in running.values()) - time.monotonic()))
        for ours, (place, child, until) in [*running.items()]:
            if ours in ready or until <= time.monotonic():
                del running[ours]
                yield place, _ended(ours, child, None if ours in ready else Result("late"))


def _ended(ours: Connection, child: int, result: Result | None) -> Result:
    """What a fork said, or ``result``; it ends with whatever it started."""
    try:
        return result or Result(*ours.recv())
    except EOFError:
        return Result("error", "the tool ended its process")
    finally:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(OSError):
                kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ours.close()


def _called(tool: Callable[..., Any], arguments: dict[str, Any], most: int) -> Result:
    try:
        value = tool(**arguments)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except BaseException as error:  # SystemExit and MemoryError, too, are the tool's own
        text = f"{type(error).__name__}: {error}"
        return Result("error", text[:most], len(text))
    return Result("value", text[:most], len(text))
