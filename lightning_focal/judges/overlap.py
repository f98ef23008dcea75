"""Judging beside something else: requests that come one after another, judged in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue

from lightning_focal.judges.base import Judge, JudgeRequest, Verdict

__all__ = ["JudgeThread"]

_LEAVE_S = 5.0  # longest wait for a judge that was stopped; a batch over HTTP ends within two


class _StoppedError(Exception):
    """Nobody waits for the verdicts any longer."""


class JudgeThread:
    """Hands requests to one call of :meth:`~lightning_focal.judges.Judge.judge_stream`, in a thread that starts with the first.

    What waits is handed over together; parts stay apart where a judge looks at whole groups.

    Args:
        judge: who judges; it may be called from another thread.

    >>> from lightning_focal.judges import RuleJudge
    >>> from lightning_focal.rubrics import Criterion
    >>> thread, short = JudgeThread(RuleJudge()), Criterion("short", "Is short.", check={"kind": "max_words", "words": 2})
    >>> thread.add([JudgeRequest((), "Yes", (short,))])
    >>> thread.add([JudgeRequest((), "Yes, of course", (short,))])
    >>> [row[0].outcome.value for row in thread.finish()]
    ['met', 'not_met']
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._waiting: SimpleQueue[Sequence[JudgeRequest] | None] = SimpleQueue()
        self._stopped = False
        self._result: Future[list[tuple[Verdict, ...]]] | None = None

    def add(self, part: Sequence[JudgeRequest]) -> None:
        """Judge these, too."""
        self._waiting.put(part)
        if self._result is None:
            self._result = Future()
            # A daemon: a judge that hangs must not keep the process from its end.
            threading.Thread(target=self._run, args=(self._result,), name="judge", daemon=True).start()

    def finish(self) -> list[tuple[Verdict, ...]]:
        """Wait; return the verdicts in the order in which requests were added, or raise what the judge raised. Then it begins anew."""
        if self._result is None:
            return self.judge.judge_stream([])
        self._waiting.put(None)
        verdicts = self._result.result()
        self._result = None
        return verdicts

    def stop(self, seconds: float = _LEAVE_S) -> None:
        """Begin nothing more and wait, so long at most, for what is under way to come and be kept; nothing to do after :meth:`finish`."""
        if self._result is not None:
            self._stopped = True
            self._waiting.put(None)
            wait([self._result], seconds)

    def _run(self, result: Future[list[tuple[Verdict, ...]]]) -> None:
        try:
            result.set_result(self.judge.judge_stream(self._parts()))
        except BaseException as error:  # raised where somebody waits
            result.set_exception(error)

    def _parts(self) -> Iterator[Sequence[JudgeRequest]]:
        over = False
        while not over:
            part = self._waiting.get()
            requests = list(part or ())
            over = part is None
            while not over and not self.judge.whole_groups:
                try:
                    more = self._waiting.get_nowait()
                except Empty:
                    break
                requests, over = [*requests, *(more or ())], more is None
            if self._stopped:
                raise _StoppedError
            if requests:
                yield requests
