"""What the work leaves on disk: finished rows at once, and at the end the pairs and what was dropped, in the order of the input."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lightning_focal.data import PairRow
from lightning_focal.files import write_text
from lightning_focal.types import Message

__all__ = ["Journal", "beside", "pair_line", "write_outputs"]

_OWN = ("id", "question", "rephrased", "answer", "prompt", "messages", "reward_model")


class Journal:
    """A file of JSON lines: a header that says what the work is, then one line for each finished row.

    A line is written whole and flushed before the next row is looked at: what is left to do is known after any end, a ``kill -9``
    included. A process that dies in the middle of a line leaves a torn one: it is cut off when the journal is opened again, and
    its row is done again.

    Args:
        path: of the file; made if it is not there.
        header: what the work is: two journals with different headers are different work, unless nothing is finished yet.

    Attributes:
        entries: finished rows by their ``id``.
        repaired: True where a torn line was cut off.

    Raises:
        ValueError: if the file is no journal, or one of other work; the message says what differs.
        RuntimeError: if another process is at work on it.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, dict[str, Any]] = {}
        self.repaired = False
        self._file: BinaryIO = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when the process ends, however it ends
            self._read(json.loads(json.dumps(header)))
        except BlockingIOError:
            self._file.close()
            raise RuntimeError(f"{self.path}: another process is at work on it") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write down that the row ``entry["id"]`` is finished."""
        self._write(entry)
        self.entries[entry["id"]] = dict(entry)

    def _write(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _read(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        whole, newline, torn = self._file.read().rpartition(b"\n")
        self.repaired = bool(torn)
        first, *rest = whole.split(b"\n")
        there = self._parse(1, first) if newline else header
        if "input" not in there or "settings" not in there:
            raise ValueError(f"{self.path} must be a journal of work that goes on, its first line is {first[:80]!r}")
        if not rest:  # nothing was finished: what it was to be does not matter
            self._file.truncate(0)
            self._write(header)
            return
        before, now = ({**{f"input {name}": v for name, v in h["input"].items()}, **h["settings"]} for h in (there, header))
        changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if changed:
            said = "; ".join(f"{name} {_short(before.get(name))}, now it is {_short(now.get(name))}" for name in changed)
            raise ValueError(f"{self.path} was begun with {said}: go on as it was begun, or name another `--out`")
        self._file.truncate(len(whole) + len(newline))
        for number, line in enumerate(rest, start=2):
            entry = self._parse(number, line)
            self.entries[str(entry.get("id"))] = entry

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"{self.path}:{number}: the journal is damaged, expected a JSON object, got {line[:80]!r}")
        return content


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def beside(out: Path, what: str) -> Path:
    """Return the file beside ``out`` that holds something else of the same work.

    >>> beside(Path("data/PAIRS.jsonl"), "rejected").as_posix()
    'data/PAIRS.rejected.jsonl'
    """
    return out.with_name(f"{out.stem}.{what}{out.suffix}")


def pair_line(row: PairRow, rephrased: str) -> dict[str, Any]:
    """Make a row of the plain layout.

    A chat of one turn is written as its text; of any other the last turn asks the rephrasing in the question's place. Other columns
    of the row are kept, under ``source_<name>`` where the layout has a meaning of its own for the name.
    """

    def spelt(chat: Sequence[Message]) -> Any:
        return chat[0]["content"] if len(chat) == 1 else [dict(turn) for turn in chat]

    turn: Message = {**row.messages[-1], "content": row.messages[-1]["content"].replace(row.question, rephrased)}
    line = {"id": row.id, "question": spelt(row.messages), "rephrased": spelt((*row.messages[:-1], turn))}
    if row.answer is not None:
        line["answer"] = row.answer
    for name, value in row.extra.items():
        no_json = isinstance(value, float) and not math.isfinite(value)
        line[f"source_{name}" if name in _OWN else name] = None if no_json else value
    return line


def write_outputs(out: Path, rows: Sequence[PairRow], entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the pairs to ``out``, and the questions without one to ``<out>.rejected.jsonl``."""
    finished = [(row, entries[row.id]) for row in rows if row.id in entries]
    pairs = [pair_line(row, entry["rephrased"]) for row, entry in finished if entry["rephrased"] is not None]
    dropped = [
        {"id": row.id, "question": row.question, "reason": entry["rejected"][-1]["reason"], "rejected": entry["rejected"]}
        for row, entry in finished
        if entry["rephrased"] is None
    ]
    _write_lines(out, pairs)
    _write_lines(beside(out, "rejected"), dropped)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
