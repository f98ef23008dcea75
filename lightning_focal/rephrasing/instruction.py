"""How a rephrasing is asked for, and how it is found in the reply."""

from __future__ import annotations

from pathlib import Path

from lightning_focal.types import Message

__all__ = ["INSTRUCTION", "ask_for", "between_markers", "read_instruction"]

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


def read_instruction(path: str | Path | None) -> str:
    """Read an instruction of one's own; None = :data:`INSTRUCTION`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not say where the question goes, or does not speak of the markers.
    """
    if path is None:
        return INSTRUCTION
    if not Path(path).is_file():
        raise FileNotFoundError(f"`instruction` must name an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    text = Path(path).read_text(encoding="utf-8-sig")
    for needed in ("{question}", OPEN, CLOSE):
        if needed not in text:
            raise ValueError(f"{path}: an instruction must hold `{needed}`; the reply is looked for between {OPEN} and {CLOSE}")
    return text


def ask_for(question: str, instruction: str = INSTRUCTION) -> tuple[Message, ...]:
    """Make the chat that asks for a rephrasing; braces in the question stay as they are.

    >>> ask_for("1+1?", "Rewrite {question}")[0]["content"]
    'Rewrite 1+1?'
    """
    return ({"role": "user", "content": instruction.replace("{question}", question)},)


def between_markers(reply: str) -> str | None:
    """Return what stands between the last pair of markers, stripped; None where there is no pair.

    >>> between_markers("I write between <rephrased> and </rephrased>: <rephrased> Two and two? </rephrased>")
    'Two and two?'
    >>> between_markers("<rephrased> Two and") is None
    True
    """
    before, close, _ = reply.rpartition(CLOSE)
    _, opened, inside = before.rpartition(OPEN)
    return inside.strip() if close and opened else None
