"""How questions, their answers and their rephrasings are written down: three layouts, recognised by their fields."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_focal.functional import extract_boxed
from lightning_focal.rubrics import RubricError
from lightning_focal.rubrics.readers.fields import id_of, messages_of, text_of
from lightning_focal.types import Message

__all__ = ["LAYOUTS", "PairLayout", "PairRow"]

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


class PairLayout(ABC):
    """One way of writing pairs down: what it is called, and in words what its rows hold."""

    name: ClassVar[str]
    fields: ClassVar[str]

    @abstractmethod
    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row looks like this layout."""

    @abstractmethod
    def parse(self, row: Mapping[str, Any], where: str, default_id: str, both: bool) -> PairRow:
        """Read one row.

        Args:
            row: without the fields whose value is None.
            where: the place, for error messages.
            default_id: id of a row that gives none.
            both: also read the rephrasing, if the row has one.

        Raises:
            RubricError: starting with ``where``, naming the field, what was expected and what stood there.
        """


class ReleasedPairs(PairLayout):
    """``train_pairs.parquet``: a question, its rephrasing, and a solution whose last box holds the answer."""

    name = "released pairs"
    fields = (
        "idx, original_question, rephrased_question, solution, and where present level, type, original_message, rephrased_message"
    )

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has an original question."""
        return "original_question" in row or "original_message" in row

    def parse(self, row: Mapping[str, Any], where: str, default_id: str, both: bool) -> PairRow:
        """Read one row; chats are used as they are where there are any."""
        solution = text_of(row, "solution", where)
        answer = _boxed(solution)
        if not answer:
            raise RubricError(where, "solution", "a text with the answer in \\boxed{...}", solution)
        question, messages = self._side(row, "original", where)
        rephrased = self._side(row, "rephrased", where)[1] if both and _has_side(row, "rephrased") else None
        used = {f"{side}_{part}" for side in ("original", "rephrased") for part in ("question", "message")} | {"idx"}
        extra = {name: value for name, value in row.items() if name not in used}
        idx = id_of(row, "idx", where, "") or None
        return PairRow(idx or default_id, question, messages, rephrased, answer, extra, where, idx)

    @staticmethod
    def _side(row: Mapping[str, Any], side: str, where: str) -> tuple[str, Chat]:
        if f"{side}_message" not in row:
            question = text_of(row, f"{side}_question", where)
            return question, ({"role": "user", "content": question},)
        chat = _chat(row, f"{side}_message", where)
        question, asked = str(row.get(f"{side}_question", "")), chat[-1]["content"]
        return (question if question.strip() and question in asked else asked), chat


class TrainerRows(PairLayout):
    """One side of two row-aligned files, in the columns of public reinforcement-learning trainers."""

    name = "trainer rows"
    fields = (
        "prompt (a list of {role, content}), reward_model {ground_truth, style}, data_source, ability, extra_info {index, split}"
    )

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a reward model."""
        return "reward_model" in row

    def parse(self, row: Mapping[str, Any], where: str, default_id: str, both: bool) -> PairRow:
        """Read one row; there is no second side in it."""
        messages = _chat(row, "prompt", where)
        reward_model, info = row["reward_model"], row.get("extra_info", {})
        for name, value in {"reward_model": reward_model, "extra_info": info}.items():
            if not isinstance(value, Mapping):
                raise RubricError(where, name, "a mapping", value)
        if "ground_truth" not in reward_model:
            raise RubricError(where, "reward_model.ground_truth", "given; null where the answer is not known", dict(reward_model))
        answer = _answer(reward_model["ground_truth"], "reward_model.ground_truth", where)
        try:
            index = id_of(info, "index", where, "") or None
        except RubricError as error:
            raise RubricError(where, "extra_info.index", error.expected, error.got) from None
        extra = {name: value for name, value in row.items() if name not in ("prompt", "reward_model")}
        return PairRow(index or default_id, messages[-1]["content"], messages, None, answer, extra, where, index)


class PlainPairs(PairLayout):
    """``{"question", "rephrased", "answer", "id", ...}``: ours, and what ``lightning_focal rephrase`` writes."""

    name = "plain"
    fields = "question (or prompt), and where present rephrased, answer, id; a question is a string or a list of {role, content}"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a question."""
        return any(name in row for name in _QUESTION)

    def parse(self, row: Mapping[str, Any], where: str, default_id: str, both: bool) -> PairRow:
        """Read one row."""
        given = [name for name in _QUESTION if name in row]
        if len(given) != 1:
            raise RubricError(where, "question", f"given once, as one of {', '.join(_QUESTION)}", sorted(row))
        messages = _chat(row, given[0], where)
        rephrased = _chat(row, "rephrased", where) if both and "rephrased" in row else None
        answer = _answer(row.get("answer"), "answer", where)
        extra = {name: value for name, value in row.items() if name not in (given[0], "rephrased", "answer", "id")}
        key = id_of(row, "id", where, "") or None
        return PairRow(key or default_id, messages[-1]["content"], messages, rephrased, answer, extra, where, key)


_QUESTION = ("question", "prompt", "messages")

LAYOUTS: tuple[PairLayout, ...] = (ReleasedPairs(), TrainerRows(), PlainPairs())
"""Known layouts; the first that a row matches is its."""


def _boxed(solution: str) -> str | None:
    r"""Return the answer of a written solution; besides ``\boxed{5}`` some are written ``\fbox{5}`` or ``\boxed 5``."""
    found = extract_boxed(solution) or extract_boxed(solution.replace("\\fbox", "\\boxed"))
    if found is None and (unbraced := re.findall(r"\\boxed\s+([^\s{}$]+)", solution)):
        found = str(unbraced[-1])
    return None if found is None else found.strip()


def _has_side(row: Mapping[str, Any], side: str) -> bool:
    return f"{side}_message" in row or f"{side}_question" in row


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
