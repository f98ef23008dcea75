"""The work itself: ask, check, ask again, write down."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_focal.data import PairRow
from lightning_focal.rephrasing.checks import INSTRUCTION, Checks, Rejection
from lightning_focal.rephrasing.journal import Journal
from lightning_focal.rephrasing.writers import Ask, Writer
from lightning_focal.servers import ChatError, ChatRefused, ChatReply, ChatUnavailable
from lightning_focal.types import Message

__all__ = ["Tally", "rephrase", "work_through"]

_REFUSED_AT_FIRST = 8  # questions refused before the first reply: then it is not the questions


@dataclass
class Tally:
    """How far the work is.

    Args:
        questions: to rephrase in all.
        pairs: questions with a rephrasing.
        dropped: questions without one, by the reason of their last attempt.
        rejected: replies rejected, by reason.
        undone: ids of questions that the server gave no reply to; the next run asks them again.
        text: what the journal calls the text that was taken.
    """

    questions: int
    pairs: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    undone: list[str] = field(default_factory=list)
    text: str = "rephrased"

    @classmethod
    def of(cls, rows: Iterable[PairRow | str], journal: Journal, text: str = "rephrased") -> Tally:
        """Count what the journal holds of these questions, given by themselves or by their ids."""
        names = [row if isinstance(row, str) else row.id for row in rows]
        tally = cls(len(names), text=text)
        for name in names:
            if name in journal.entries:
                tally.count(journal.entries[name])
        return tally

    @property
    def finished(self) -> int:
        """Questions that need no more work."""
        return self.pairs + self.dropped.total()

    def count(self, entry: Mapping[str, Any]) -> None:
        """Count a finished row of the journal."""
        reasons = [str(one["reason"]) for one in entry["rejected"]]
        self.rejected.update(reasons)
        if entry[self.text] is not None:
            self.pairs += 1
        elif reasons:
            self.dropped[reasons[-1]] += 1


def rephrase(
    rows: Sequence[PairRow],
    writer: Writer,
    journal: Journal,
    checks: Checks = Checks(),  # noqa: B008 - frozen
    *,
    instruction: str = INSTRUCTION,
    attempts: int = 3,
    seed: int | None = None,
    tally: Tally | None = None,
    on_progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Rephrase every question that the journal does not hold as finished; returns the count over ``rows``, earlier runs included.

    Args:
        rows: the questions.
        writer: who writes.
        journal: where a row is written down once it is finished: ``{"id", "rephrased" (None = dropped), "rejected"}``.
        checks: what a rephrasing has to meet.
        instruction: how it is asked for; braces in a question stay as they are.
        attempts: replies to a question that may be rejected before it is dropped.
        seed: of every reply, together with the row's id and the attempt; None = whatever comes.
        tally: ``Tally.of(rows, journal)``, for who wants to see it whatever happens; made here by default.
        on_progress: called whenever there is something new.

    Raises:
        ChatUnusable: if no request can succeed.
        ChatUnavailable: if as many questions in a row as are asked at once, and at least three, got no reply.
        ChatRefused: if every question was refused, or the first eight were.
    """
    texts = {row.id: row.question for row in rows}
    chats: dict[str, Sequence[Message]] = {
        name: ({"role": "user", "content": instruction.replace("{question}", text)},) for name, text in texts.items()
    }
    tally = tally or Tally.of(rows, journal)
    take = lambda name, reply: checks.judge(texts[name], reply)  # noqa: E731
    return work_through(chats, writer, journal, take, tally, attempts=attempts, seed=seed, on_progress=on_progress)


def work_through(
    chats: Mapping[str, Sequence[Message]],
    writer: Writer,
    journal: Journal,
    take: Callable[[str, ChatReply], str | Rejection],
    tally: Tally,
    *,
    attempts: int,
    seed: int | None,
    on_progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Get a text for every chat whose id the journal does not hold; ``take`` makes it of a reply, or says why that is rejected.

    A finished one is written down as ``{"id", tally.text (None = dropped), "rejected"}``. Errors and the other arguments as
    :func:`rephrase`.
    """
    left = {name: tuple(chat) for name, chat in chats.items() if name not in journal.entries}
    tries: dict[str, list[Rejection]] = {}
    refused: list[tuple[str, ChatRefused]] = []
    replies = silent = 0

    def ask(name: str, attempt: int = 0) -> Ask:
        return Ask(name, left[name], _seed(seed, name, attempt), attempt)

    def finish(name: str, text: str | None) -> None:
        entry = {"id": name, tally.text: text, "rejected": [asdict(one) for one in tries.pop(name, [])]}
        journal.append(entry)
        tally.count(entry)

    on_progress(tally)
    queue = deque(map(ask, left))
    with closing(writer.replies(queue)) as answers:
        for asked, reply in answers:
            name = asked.id
            if isinstance(reply, ChatUnavailable):
                tally.undone.append(name)
                silent += 1
                if silent >= max(writer.width, 3):
                    raise ChatUnavailable(f"{reply}; gave up after {silent} questions without a reply") from reply
            elif isinstance(reply, ChatRefused):
                silent = 0
                refused.append((name, reply))
                if not replies and len(refused) >= _REFUSED_AT_FIRST:
                    raise ChatRefused(f"the first {len(refused)} questions were refused: {reply}") from reply
            elif isinstance(reply, ChatError):
                raise reply
            else:
                replies, silent = replies + 1, 0
                verdict = take(name, reply)
                if isinstance(verdict, str):
                    finish(name, verdict)
                else:
                    tries.setdefault(name, []).append(verdict)
                    if asked.attempt + 1 < attempts:
                        queue.appendleft(ask(name, asked.attempt + 1))
                    else:
                        finish(name, None)
            if replies:  # somebody is there who takes questions: those refused are refused for their own sake
                for name, error in refused:
                    tries.setdefault(name, []).append(Rejection("refused", str(error)))
                    finish(name, None)
                refused.clear()
            on_progress(tally)
    if refused:
        raise ChatRefused(f"every question was refused: {refused[0][1]}") from refused[0][1]
    return tally


def _seed(seed: int | None, name: str, attempt: int) -> int | None:
    """A seed of 31 bits for a reply; the same for the same question, whatever else is asked."""
    if seed is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}\0{attempt}".encode()).digest()[:4], "big") >> 1
