"""Which replies are rephrasings."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_focal.rephrasing.instruction import between_markers
from lightning_focal.rephrasing.numbers import numbers_changed
from lightning_focal.servers import ChatReply

__all__ = ["REASONS", "Checks", "Rejection"]

REASONS = {
    "cut_off": "cut off by the length limit before the closing marker",
    "no_markers": "no text between the markers",
    "empty": "nothing between the markers",
    "unchanged": "the question itself",
    "too_long": "much longer than the question",
    "numbers": "other numbers than the question",
    "refused": "not asked: the server or the model cannot take this question",
}
"""Why a reply is rejected: what each reason means."""

_ALWAYS_ALLOWED = 400  # characters: a short question may need a setting


@dataclass(frozen=True)
class Rejection:
    """Why a reply was rejected.

    Args:
        reason: one of :data:`REASONS`.
        detail: what exactly, where there is more to say.
        reply: what was replied, shortened.
    """

    reason: str
    detail: str = ""
    reply: str = ""


@dataclass(frozen=True)
class Checks:
    """What a rephrasing has to meet.

    Args:
        keep_numbers: it holds the numbers of the question, see :func:`~lightning_focal.rephrasing.numbers.numbers_changed`.
        longest: times the question's characters that it may have; 400 characters are always allowed.

    Raises:
        ValueError: if ``longest`` is not positive.

    >>> Checks().judge("What is 1+1?", ChatReply("<rephrased>Add one to one.</rephrased>"))
    'Add one to one.'
    >>> Checks().judge("What is 1+1?", ChatReply("<rephrased>what  is 1+1?</rephrased>")).reason
    'unchanged'
    """

    keep_numbers: bool = False
    longest: float = 4.0

    def __post_init__(self) -> None:
        if not self.longest > 0:
            raise ValueError(f"`longest` must be > 0, got {self.longest}")

    def judge(self, question: str, reply: ChatReply) -> str | Rejection:
        """Return the rephrasing, or why the reply is rejected."""
        shown = reply.text if len(reply.text) <= 1000 else f"{reply.text[:500]} … {reply.text[-499:]}"
        text = between_markers(reply.text)
        if text is None:
            return Rejection("cut_off" if reply.finish_reason == "length" else "no_markers", reply=shown)
        if not text:
            return Rejection("empty", reply=shown)
        if _flat(text) == _flat(question):
            return Rejection("unchanged", reply=shown)
        if len(text) > max(self.longest * len(question), _ALWAYS_ALLOWED):
            return Rejection("too_long", f"{len(text)} characters for a question of {len(question)}", shown)
        changed = numbers_changed(question, text) if self.keep_numbers else None
        return text if changed is None else Rejection("numbers", changed, shown)


def _flat(text: str) -> str:
    return " ".join(text.lower().split())
