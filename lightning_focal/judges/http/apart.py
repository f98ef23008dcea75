"""Runs a coroutine in a thread of its own, from which the caller can be called away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["run_apart"]

_T = TypeVar("_T")


def run_apart(make: Callable[[], Coroutine[Any, Any, _T]], grace_s: float = 1.5) -> _T:
    """Run what ``make`` gives to its end and return its result.

    The event loop has a thread of its own: the caller may itself be called from a running loop. Where the caller is interrupted,
    by Ctrl-C say, the coroutine is cancelled and given ``grace_s`` seconds to close what it has open; then the interruption goes on.

    >>> run_apart(lambda: asyncio.sleep(0, "done"))
    'done'
    """
    result: Future[_T] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    given_up = threading.Event()

    async def main() -> _T:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        if given_up.is_set():
            raise asyncio.CancelledError
        return await make()

    def work() -> None:
        try:
            value = asyncio.run(main())
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    thread = threading.Thread(target=work, name="judge", daemon=True)
    thread.start()
    try:
        return result.result()
    except BaseException:
        if not result.done():
            given_up.set()
            for loop, task in running:
                with contextlib.suppress(RuntimeError):  # it ended this moment
                    loop.call_soon_threadsafe(task.cancel)
            thread.join(grace_s)
        raise
