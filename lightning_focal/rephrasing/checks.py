"""How a rephrasing is asked for, how it is found in the reply, and which replies are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_focal.rephrasing.numbers import numbers_changed
from lightning_focal.servers import ChatReply
from lightning_focal.thoughts import split_thought

__all__ = ["INSTRUCTION", "REASONS", "Checks", "Rejection", "between_markers", "read_instruction"]

OPEN, CLOSE = "<rephrased>", "</rephrased>"

INSTRUCTION = f"""\
Rewrite the question below in new words and in a new setting: other people, other things, another place. The mathematics stays \
as it is: the same numbers, the same relations between them, the same thing asked for, and so the same answer. Keep formulas as \
they are written. Leave nothing out that is needed to answer the question, add no hint, and do not answer it.

Reply with the rewritten question alone, between {OPEN} and {CLOSE}.

<question>
{{question}}
</question>"""
"""The instruction, with ``{question}`` where the question goes (ours)."""

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


def read_instruction(path: str | Path | None) -> str:
    """Read an instruction of one's own (None = :data:`INSTRUCTION`); ValueError if it lacks ``{question}`` or the markers."""
    if path is None:
        return INSTRUCTION
    if not Path(path).is_file():
        raise FileNotFoundError(f"`instruction` must name an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    text = Path(path).read_text(encoding="utf-8-sig")
    for needed in ("{question}", OPEN, CLOSE):
        if needed not in text:
            raise ValueError(f"{path}: an instruction must hold `{needed}`; the reply is looked for between {OPEN} and {CLOSE}")
    return text


def between_markers(reply: str) -> str | None:
    """Return what stands between the last pair of markers, stripped; None where there is no pair.

    >>> between_markers("I write between <rephrased> and </rephrased>: <rephrased> Two and two? </rephrased>")
    'Two and two?'
    """
    before, close, _ = reply.rpartition(CLOSE)
    _, opened, inside = before.rpartition(OPEN)
    return inside.strip() if close and opened else None


@dataclass(frozen=True)
class Rejection:
    """Why a reply was rejected: one of :data:`REASONS`, what exactly where there is more to say, and the reply, shortened."""

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
        text = between_markers(split_thought(reply.text).answer)
        if text is None:
            return Rejection("cut_off" if reply.finish_reason == "length" else "no_markers", reply=shown)
        if not text:
            return Rejection("empty", reply=shown)
        if text.lower().split() == question.lower().split():
            return Rejection("unchanged", reply=shown)
        if len(text) > max(self.longest * len(question), _ALWAYS_ALLOWED):
            return Rejection("too_long", f"{len(text)} characters for a question of {len(question)}", shown)
        changed = numbers_changed(question, text) if self.keep_numbers else None
        return text if changed is None else Rejection("numbers", changed, shown)
