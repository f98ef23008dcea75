"""Verdicts on a batch of which some were begun while the rest was still written."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from lightning_focal.judges import Judge, JudgeRequest, JudgeThread, Verdict

__all__ = ["EarlyVerdicts", "Place", "judged_at_once"]

Place = tuple[int, int, int]
"""Row of the prompt, place in the group, number of the repetition."""


def judged_at_once(judge: Judge, wanted: Mapping[Place, JudgeRequest]) -> dict[Place, tuple[Verdict, ...]]:
    """Return the verdicts on requests that are all there, in this thread; ``wanted`` holds rows one after another."""
    parts = [list(part.values()) for part in _parts(wanted, judge.whole_groups)]
    return dict(zip(wanted, judge.judge_stream(parts), strict=True))


class EarlyVerdicts:
    """Takes responses as they end, and gives the verdicts on all of them.

    A verdict counts for the very request that it was given on: what is asked for and was not told, or was told with another text, is judged
    then. A judge of whole groups gets each group once it is whole, in the order of its places.

    Args:
        judge: that overlaps.
        group_size: responses a prompt.
    """

    def __init__(self, judge: Judge, group_size: int) -> None:
        self.judge, self.group_size = judge, group_size
        self._thread, self._asked = JudgeThread(judge), list[tuple[Place, JudgeRequest]]()
        self._open: dict[tuple[int, int], dict[Place, JudgeRequest]] = {}  # groups that are not whole yet
        self._told: dict[Place, JudgeRequest] = {}
        self._verdicts: dict[Place, tuple[Verdict, ...]] = {}

    def add(self, place: Place, request: JudgeRequest) -> None:
        """Begin to judge a response."""
        part = {place: request}
        if self.judge.whole_groups:
            group = self._open.setdefault((place[0], place[2]), {})
            group[place] = request
            if len(group) < self.group_size:
                return
            part = dict(sorted(self._open.pop((place[0], place[2])).items()))
        self._ask(part)

    def take(self, wanted: Mapping[Place, JudgeRequest]) -> dict[Place, tuple[Verdict, ...]]:
        """Return the verdicts on ``wanted``, which holds rows one after another; raises what the judge raised."""
        for part in _parts(wanted, self.judge.whole_groups):
            lacking = {place: request for place, request in part.items() if self._told.get(place) != request}
            if lacking:
                self._ask(part if self.judge.whole_groups else lacking)
        if self._asked or not wanted:
            asked, self._asked = self._asked, []
            verdicts = self._thread.finish()
            self._verdicts |= {place: row for (place, _), row in zip(asked, verdicts, strict=True)}
        return {place: self._verdicts[place] for place in wanted}

    def stop(self) -> None:
        """Begin no further judgement, see :meth:`~lightning_focal.judges.overlap.JudgeThread.stop`."""
        self._thread.stop()

    def _ask(self, part: Mapping[Place, JudgeRequest]) -> None:
        self._told |= part
        self._asked += part.items()
        self._thread.add(list(part.values()))


def _parts(wanted: Mapping[Place, JudgeRequest], whole_groups: bool) -> list[dict[Place, JudgeRequest]]:
    """What is handed over together: the group of each row, or all of it."""
    if not whole_groups:
        return [dict(wanted)]
    return [dict(group) for _, group in groupby(wanted.items(), key=lambda item: item[0][0])]
