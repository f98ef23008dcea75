"""What the work leaves behind: the pairs, and what was dropped, in the order of the input."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_focal.data import PairRow
from lightning_focal.files import write_text
from lightning_focal.types import Message

__all__ = ["beside", "pair_line", "write_outputs"]

_OWN = ("id", "question", "rephrased", "answer", "prompt", "messages", "reward_model")


def beside(out: Path, what: str) -> Path:
    """Return the file beside ``out`` that holds something else of the same work.

    >>> beside(Path("data/PAIRS.jsonl"), "rejected").as_posix()
    'data/PAIRS.rejected.jsonl'
    """
    return out.with_name(f"{out.stem}.{what}{out.suffix}")


def pair_line(row: PairRow, rephrased: str) -> dict[str, Any]:
    """Make a row of the plain layout.

    A chat of one turn is written as its text; of any other the last turn asks the rephrasing in the question's place.

    Args:
        row: the question; its other columns are kept, under ``source_<name>`` where the layout has a meaning of its own for the name.
        rephrased: the question in new words.
    """
    asked = row.messages[-1]["content"]
    turn: Message = {**row.messages[-1], "content": asked.replace(row.question, rephrased)}
    line = {"id": row.id, "question": _spelt(row.messages), "rephrased": _spelt((*row.messages[:-1], turn))}
    if row.answer is not None:
        line["answer"] = row.answer
    return line | {f"source_{name}" if name in _OWN else name: _plain(value) for name, value in row.extra.items()}


def write_outputs(out: Path, rows: Sequence[PairRow], entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the pairs to ``out``, and the questions without one to ``<out>.rejected.jsonl``.

    Args:
        out: the file of pairs.
        rows: all questions of the input, in its order.
        entries: finished rows of the journal, by id; the others are in neither file.
    """
    finished = [(row, entries[row.id]) for row in rows if row.id in entries]
    pairs = [pair_line(row, entry["rephrased"]) for row, entry in finished if entry["rephrased"] is not None]
    dropped = [
        {"id": row.id, "question": row.question, "reason": entry["rejected"][-1]["reason"], "rejected": entry["rejected"]}
        for row, entry in finished
        if entry["rephrased"] is None
    ]
    write_text(out, _lines(pairs))
    write_text(beside(out, "rejected"), _lines(dropped))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _spelt(chat: Sequence[Message]) -> Any:
    return chat[0]["content"] if len(chat) == 1 else [dict(turn) for turn in chat]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
