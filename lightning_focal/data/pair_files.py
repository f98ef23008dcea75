"""Files of questions, their answers and their rephrasings: three layouts, recognised by their fields."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_focal.functional import extract_boxed
from lightning_focal.functional.choices import expect_choice
from lightning_focal.rubrics import RubricError
from lightning_focal.rubrics.readers.fields import decoded, id_of, messages_of, text_of
from lightning_focal.rubrics.readers.files import RawRow, raw_rows, stem_of, warn_of_skipped
from lightning_focal.types import Message

__all__ = ["PairRow", "read_pairs", "read_questions", "same_label"]

_NUMBER = re.compile(r"[-+]?[0-9]{1,100}(\.[0-9]{1,100})?(/[0-9]{1,100})?")
_QUESTION = ("question", "prompt", "messages")

Chat = tuple[Message, ...]


@dataclass(frozen=True)
class PairRow:
    """A question and, where there is one, its rephrasing.

    Args:
        id: the row's own id, or ``<file stem>:<line>``; unique within the file.
        question: its words alone, as they stand in the last turn of ``messages``.
        messages: the chat that asks it.
        rephrased: the chat that asks the rephrasing; None where there is none.
        answer: the gold answer where known.
        extra: the other columns.
        where: the place, for error messages.
        key: what a row-aligned file's rows have to agree on: the id that the file itself gives, or None.
    """

    id: str
    question: str
    messages: Chat
    rephrased: Chat | None = None
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    key: str | None = None


Parsed = PairRow | RubricError


def read_questions(path: str | Path, on_bad_row: Literal["error", "skip"] = "error") -> list[PairRow]:
    """Read the questions of a file; a rephrasing beside them is not looked at.

    The layout is that of the first row that looks like one of three; one file, one layout. ``released pairs``: idx,
    original_question, rephrased_question, solution. ``trainer rows``: prompt, reward_model. ``plain``: question, rephrased, answer, id.

    Args:
        path: ``.jsonl``, ``.ndjson``, ``.json``, ``.csv`` or ``.parquet``, each also as ``.gz``.
        on_bad_row: ``error`` refuses the file at its first malformed row; ``skip`` leaves such rows out and logs how many and
            which, with the first reason.

    Returns:
        The rows in file order. Ids are the rows' own, or ``<file stem>:<line>``: the same at every reading.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: (a ValueError) on a file that cannot be read, an unknown layout, a malformed row or a repeated id, naming
            file, line and field, what was expected and what stood there; also where ``skip`` leaves no row at all.
    """
    return _good(Path(path), _parsed(Path(path), both=False)[1], on_bad_row, both=False)


def read_pairs(
    path: str | Path, rephrased: str | Path | None = None, on_bad_row: Literal["error", "skip"] = "error"
) -> list[PairRow]:
    """Read questions with their rephrasings: both in one file, or in two whose rows are aligned.

    Args:
        path: see :func:`read_questions`.
        rephrased: the file of the rephrasings, row by row; None = they stand in ``path``.
        on_bad_row: see :func:`read_questions`. A pair is left out if either side is malformed or their labels differ. Files of
            unequal length and ids that do not agree are an error in any case.

    Returns:
        The pairs in file order.

    Raises:
        FileNotFoundError: if there is no such file.
        RubricError: as :func:`read_questions`; and where a rephrasing is missing, the two files have different numbers of rows,
            the ids that they give differ, or a pair's two sides carry different labels, see :func:`same_label`.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "tiny.jsonl"
    >>> _ = file.write_text('{"question": "1 + 1?", "rephrased": "Add one to one.", "answer": 2}')
    >>> row = read_pairs(file)[0]
    >>> row.id, row.rephrased[-1]["content"], row.answer
    ('tiny:1', 'Add one to one.', '2')
    """
    path = Path(path)
    layout, rows = _parsed(path, both=True)
    if rephrased is None:
        return _good(path, [_expect_both(row, layout.second) for row in rows], on_bad_row, both=True)
    others = _parsed(Path(rephrased), both=True)[1]
    if len(rows) != len(others):
        expected = f"as many rows as {path} has ({len(rows)}): the two are aligned by row"
        raise RubricError(str(rephrased), "file", expected, len(others))
    return _good(path, [_joined(row, its) for row, its in zip(rows, others, strict=True)], on_bad_row, both=True)


def same_label(first: str | None, second: str | None) -> bool:
    """Say whether two gold answers agree: the same string after stripping, or the same plain number; unknown agrees with all.

    >>> same_label("0.5", " 1/2 "), same_label("3", "4"), same_label("x", None)
    (True, False, True)
    """
    if first is None or second is None or first.strip() == second.strip():
        return True
    values = [_value(label.strip()) for label in (first, second)]
    return values[0] is not None and values[0] == values[1]


def _value(label: str) -> Fraction | None:
    if not _NUMBER.fullmatch(label):
        return None
    over, _, under = label.partition("/")
    divisor = int(under or "1")
    return Fraction(over) / divisor if divisor else None


# -- layouts ----------------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """One way of writing pairs down: what it is called, its fields in words, those that it is told by, the second side's, a reader.

    The reader takes a row without the fields whose value is None, its place, and whether the rephrasing is read too. It returns a
    :class:`PairRow` whose id is the row's own, or empty.
    """

    name: str
    fields: str
    signs: tuple[str, ...]
    second: str
    read: Callable[[Mapping[str, Any], str, bool], PairRow]


def _released_pair(row: Mapping[str, Any], where: str, both: bool) -> PairRow:
    """``train_pairs.parquet``: a question, its rephrasing, and a solution whose last box holds the answer."""
    solution = text_of(row, "solution", where)
    answer = _boxed(solution)
    if not answer:
        raise RubricError(where, "solution", "a text with the answer in \\boxed{...}", solution)
    sides: dict[str, Chat] = {}
    for side in ("original", "rephrased") if both else ("original",):
        if f"{side}_message" in row:
            sides[side] = _chat(row, f"{side}_message", where)
        elif side == "original" or "rephrased_question" in row:
            sides[side] = ({"role": "user", "content": text_of(row, f"{side}_question", where)},)
    question, asked = str(row.get("original_question", "")), sides["original"][-1]["content"]
    question = question if question.strip() and question in asked else asked
    used = {f"{side}_{part}" for side in ("original", "rephrased") for part in ("question", "message")} | {"idx"}
    idx = id_of(row, "idx", where, "")
    return PairRow(idx, question, sides["original"], sides.get("rephrased"), answer, _without(row, used), where, idx or None)


def _trainer_row(row: Mapping[str, Any], where: str, both: bool) -> PairRow:
    """One side of two row-aligned files, in the columns of public reinforcement-learning trainers."""
    messages = _chat(row, "prompt", where)
    reward_model, info = decoded(row["reward_model"]), decoded(row.get("extra_info", {}))
    for name, value in {"reward_model": reward_model, "extra_info": info}.items():
        if not isinstance(value, Mapping):
            raise RubricError(where, name, "a mapping", value)
    if "ground_truth" not in reward_model:
        raise RubricError(where, "reward_model.ground_truth", "given; null where the answer is not known", dict(reward_model))
    answer = _answer(reward_model["ground_truth"], "reward_model.ground_truth", where)
    try:
        index = id_of(info, "index", where, "")
    except RubricError as error:
        raise RubricError(where, "extra_info.index", error.expected, error.got) from None
    extra = _without(row, ("prompt", "reward_model"))
    return PairRow(index, messages[-1]["content"], messages, None, answer, extra, where, index or None)


def _plain_pair(row: Mapping[str, Any], where: str, both: bool) -> PairRow:
    """``{"question", "rephrased", "answer", "id", ...}``: ours, and what ``lightning_focal rephrase`` writes."""
    given = [name for name in _QUESTION if name in row]
    if len(given) != 1:
        raise RubricError(where, "question", f"given once, as one of {', '.join(_QUESTION)}", sorted(row))
    messages = _chat(row, given[0], where)
    rephrased = _chat(row, "rephrased", where) if both and "rephrased" in row else None
    answer, key = _answer(row.get("answer"), "answer", where), id_of(row, "id", where, "")
    extra = _without(row, (given[0], "rephrased", "answer", "id"))
    return PairRow(key, messages[-1]["content"], messages, rephrased, answer, extra, where, key or None)


_LAYOUTS = (
    _Layout("released pairs",
            "idx, original_question, rephrased_question, solution, and where present level, type, original_message, rephrased_message",
            ("original_question", "original_message"), "rephrased_question", _released_pair),
    _Layout("trainer rows",
            "prompt (a list of {role, content}), reward_model {ground_truth, style}, data_source, ability, extra_info {index, split}",
            ("reward_model",), "rephrased", _trainer_row),
    _Layout("plain", "question (or prompt), and where present rephrased, answer, id; a question is a string or a list of {role, content}",
            _QUESTION, "rephrased", _plain_pair),
)  # fmt: skip
"""Known layouts; the first whose sign a row has is its."""


def _without(row: Mapping[str, Any], used: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in used}


def _boxed(solution: str) -> str | None:
    r"""Return the answer of a written solution; besides ``\boxed{5}`` some are written ``\fbox{5}`` or ``\boxed 5``."""
    found = extract_boxed(solution) or extract_boxed(solution.replace("\\fbox", "\\boxed"))
    if found is None and (unbraced := re.findall(r"\\boxed\s+([^\s{}$]+)", solution)):
        found = str(unbraced[-1])
    return None if found is None else found.strip()


def _chat(row: Mapping[str, Any], name: str, where: str) -> Chat:
    """Return the chat under ``name``, which has to end with words of the user."""
    messages = messages_of(row, name, where)
    last = f"{name}[{len(messages) - 1}]" if not isinstance(row[name], str) else name
    if messages[-1]["role"] != "user":
        raise RubricError(where, f"{last}.role", "'user': a prompt ends with a turn that awaits a response", messages[-1]["role"])
    if not messages[-1]["content"].strip():
        raise RubricError(where, f"{last}.content", "a non-empty string", messages[-1]["content"])
    return messages


def _answer(value: Any, name: str, where: str) -> str | None:
    """Return a gold answer as a string; a whole number that a table keeps as a float loses its ``.0``."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RubricError(where, name, "a non-empty string or a number; leave it out where it is not known", value)
    return json.dumps(int(value) if value == int(value) and abs(value) < 2**53 else value)


# -- rows -------------------------------------------------------------------------------------------------------------------


def _parsed(path: Path, both: bool) -> tuple[_Layout, list[Parsed]]:
    """Return the layout and every row, or what is wrong with it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} (looked in {Path.cwd()})")
    raw = raw_rows(path)
    layout = _recognise(raw)
    rows: list[Parsed] = []
    for number, where, row in raw:
        try:
            if isinstance(row, RubricError):
                raise row
            if not isinstance(row, Mapping):
                raise RubricError(where, "", "a mapping", row)
            found = layout.read({name: value for name, value in row.items() if value is not None}, where, both)
            rows.append(replace(found, id=found.id or f"{stem_of(path)}:{number}"))
        except RubricError as error:
            rows.append(error)
    return layout, rows


def _recognise(raw: Sequence[RawRow]) -> _Layout:
    for row in [row for *_, row in raw if isinstance(row, Mapping)]:
        for layout in _LAYOUTS:
            if any(row.get(sign) is not None for sign in layout.signs):
                return layout
    if broken := next((row for *_, row in raw if isinstance(row, RubricError)), None):
        raise broken
    known = "; ".join(f"{layout.name}: {layout.fields}" for layout in _LAYOUTS)
    _, where, first = raw[0]
    got = f"fields {', '.join(map(str, first)) or 'none'}" if isinstance(first, Mapping) else first
    raise RubricError(where, "", f"in a known layout ({known})", got)


def _expect_both(row: Parsed, second: str) -> Parsed:
    if isinstance(row, RubricError) or row.rephrased is not None:
        return row
    missing = (
        "given: a pair has both sides (`lightning_focal rephrase` writes the second one; a row-aligned file of rephrasings is "
        "named by `train_rephrased`; `pairs: false` trains on the originals alone)"
    )
    return RubricError(row.where, second, missing, "nothing")


def _joined(row: Parsed, other: Parsed) -> Parsed:
    """Make a pair of a row and the row of the second file that stands in its place."""
    if isinstance(row, RubricError):
        return row
    if isinstance(other, RubricError):
        return other
    if row.key is not None and other.key is not None and row.key != other.key:
        raise RubricError(other.where, "id", f"{row.key!r} as at {row.where}: the two files are aligned by row", other.key)
    for side in (row, other):
        if side.rephrased is not None:
            return RubricError(side.where, "", "one side of a pair, as there is a second file", "a row that holds both sides")
    if not same_label(row.answer, other.answer):
        return RubricError(other.where, "answer", f"{row.answer!r} as at {row.where}: both sides have one label", other.answer)
    return replace(row, rephrased=other.messages, answer=row.answer if row.answer is not None else other.answer)


def _good(path: Path, rows: Sequence[Parsed], on_bad_row: str, both: bool) -> list[PairRow]:
    """Return the rows in order; raise at the first bad one, or leave bad ones out and say so."""
    expect_choice("on_bad_row", on_bad_row, ("error", "skip"))
    good, bad, taken = list[PairRow](), list[RubricError](), dict[str, str]()
    for row in rows:
        error, names = row, list[str]()
        if isinstance(row, PairRow):
            names = [row.id, f"{row.id}/rephrased"] if both else [row.id]
            first = next((taken[name] for name in names if name in taken), None)
            error = row if first is None else RubricError(row.where, "id", f"unique in the file (first at {first})", row.id)
        if isinstance(error, PairRow):
            good.append(error)
            taken |= dict.fromkeys(names, error.where)
        elif on_bad_row == "error":
            raise error
        else:
            bad.append(error)
    if not good:
        expected = f"rows of which at least one is good (the first bad one: {bad[0]})"
        raise RubricError(str(path), "file", expected, f"{len(bad)} bad rows")
    if bad:
        warn_of_skipped(path, bad, len(rows))
    return good
