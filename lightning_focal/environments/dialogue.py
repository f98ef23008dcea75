"""A dialogue with a user who follows a script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_focal.environments.base import Environment, Episode, Task

if TYPE_CHECKING:
    from lightning_focal.types import Message

__all__ = ["Dialogue"]


class _Scripted(Episode):
    def __init__(self, lines: Sequence[str], expects: Sequence[str | None]) -> None:
        self.lines, self.expects = lines, expects

    def step(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        turn = sum(message["role"] == "assistant" for message in messages)
        return None if turn > len(self.lines) else ({"role": "user", "content": self.lines[turn - 1]},)

    def scores(self, messages: Sequence[Message]) -> Mapping[str, float | None]:
        turns = [message["content"] for message in messages if message["role"] == "assistant"]
        asked = [(i, pattern) for i, pattern in enumerate(self.expects) if pattern]
        met = sum(i < len(turns) and re.search(pattern, turns[i], re.IGNORECASE) is not None for i, pattern in asked)
        return {"replies": met / len(asked) if asked else None, "finished": float(len(turns) > len(self.lines))}


class Dialogue(Environment):
    """A user who says one line after another, whatever the policy answers.

    The prompt is the user's first line; the column ``script`` of the data holds the further ones, ``expects`` a pattern for each of the
    policy's turns, null = any. Scores: ``replies``, the share of patterns that are found; ``finished``, every line was answered.

    >>> episode = Dialogue().reset(Task("a", extra={"script": ["And for two?"], "expects": ["6", "12"]}))
    >>> said = [{"role": "assistant", "content": "6 eggs."}]
    >>> episode.step(said)
    ({'role': 'user', 'content': 'And for two?'},)
    >>> episode.scores(said)
    {'replies': 0.5, 'finished': 0.0}
    """

    score_names = ("replies", "finished")

    def reset(self, task: Task) -> Episode:
        """See :class:`Environment`."""
        return _Scripted(task.extra.get("script") or (), task.extra.get("expects") or ())
