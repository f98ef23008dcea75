"""What a rubric format is: where a row keeps its parts and what a criterion calls its own; and how rows are read by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric, RubricError
from lightning_focal.rubrics.readers.fields import (
    Own,
    Row,
    answer_of,
    at,
    decoded,
    entries_of,
    found,
    id_of,
    messages_of,
    number_of,
    slugs,
    tags_of,
    text_of,
    without_none,
)
from lightning_focal.types import Message

__all__ = ["FORMATS", "OWN", "RubricFormat", "RubricRow", "Score", "share", "weighted_mean"]

Score = Callable[[Rubric, Sequence[float | None]], float | None]
"""Scores a response, given how far each criterion is met, in [0, 1] (None = not judged); None where nothing that counts was judged."""
Entries = list[tuple[str, Row]]
"""Criteria as they were written, each with its path within the row (``rubric[2]``)."""

OWN = {key: (key,) for key in ("name", "description", "points", "tags", "check", "required", "low", "high", "scope")}
"""What a criterion's fields are called in the plain format."""
_OF_OWN = {**OWN, "title": ("title",)}


@dataclass(frozen=True)
class RubricRow:
    """One row of a rubric file.

    ``id`` is the row's own, or ``<file stem>:<line>``; ``messages`` the chat to answer, ``answer`` the gold answer, ``extra`` the other
    columns, ``raw`` the row as it stood in the file (not part of equality).
    """

    id: str
    messages: tuple[Message, ...]
    rubric: Rubric
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    format: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class RubricFormat:
    """One way of writing rubrics down.

    A path is a name, or names joined by points (``reward_model.rubrics``); text that is JSON or a Python literal counts as what
    it stands for.

    Args:
        name: what it is called.
        fields: what its rows hold, in words.
        signs: paths that a row has to have; ``a|b`` is one of the two, ``rubrics[].points`` is of the first criterion,
            and ``rubric=text`` is text that stands for nothing else.
        id: names of the row's id; the first that is there counts, as everywhere.
        prompt: names of the chat.
        rubric: paths of the criteria.
        answer: path of the gold answer.
        criterion: under which names a criterion keeps ``title`` (which its name is made of), and the fields of :data:`OWN`.
        points: of a criterion without any; None = they must be given.
        gold: names of a labelled response and of its verdicts, one a label: they become the column ``responses``.
        entries: lists the criteria, given the row and its place; by default what stands under ``rubric``, in any common shape.
        adapt: gives a criterion's remaining fields, given what was written, the answer, the place and the path.
        chat: makes the chat, given the row, the name of its field and the place; a string or a list of turns by default.
        score: the format's own score of a response, for reports.
        terms: that score in words.
        clipped: whether the mean over a data set is clipped to [0, 1].
    """

    name: str
    fields: str
    signs: tuple[str, ...]
    id: tuple[str, ...] = ("id",)
    prompt: tuple[str, ...] = ("prompt",)
    rubric: tuple[str, ...] = ("rubrics",)
    answer: str | None = None
    criterion: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: OWN)
    points: float | None = 1.0
    gold: tuple[str, str] | None = None
    entries: Callable[[Row, str], Entries] | None = None
    adapt: Callable[[Row, str | None, str, str], Row] = lambda entry, answer, where, path: {}
    chat: Callable[[Row, str, str], tuple[Message, ...]] = messages_of
    score: Score = Rubric.raw_score
    terms: str = "sum of met points / sum of positive points"
    clipped: bool = False

    def lacks(self, row: Row) -> list[str]:
        """List the signs that a row does not have; empty = it is of this format."""
        return [sign for sign in self.signs if not any(_has(row, path) for path in sign.split("|"))]

    def matches(self, row: Row) -> bool:
        """Say whether a row looks like this format."""
        return not self.lacks(row)

    def parse(self, row: Row, where: str, default_id: str) -> RubricRow:
        """Read a row without fields that are None; ``where`` is its place, ``default_id`` its id where it has none.

        Raises:
            RubricError: starting with the place and naming the field, what was expected and what stood there.
        """
        id, prompt, rubric = found(row, (*self.id, "id")), found(row, self.prompt), found(row, self.rubric)
        answer = None if self.answer in (None, rubric) else answer_of(row, str(self.answer), where) or None
        listed = self.entries(row, where) if self.entries else entries_of(row, rubric, where)
        paths = (id, prompt, self.answer or "", *(self.rubric if self.entries else (rubric,)))
        used = {path.partition(".")[0] for path in paths} - _KEPT
        extra = {key: value for key, value in row.items() if key not in used}
        if self.gold is not None and self.gold[0] in row:
            response, labels = row[self.gold[0]], decoded(row.get(self.gold[1]))
            labels = labels if isinstance(labels, list) else [labels]
            extra["responses"] = [{"response": response, "verdicts": [_label(label)]} for label in labels if label is not None]
        made = Rubric(self._criteria(listed, answer, where), extra, where)
        return RubricRow(id_of(row, id, where, default_id), self._chat(row, prompt, where), made, answer, extra)

    def _chat(self, row: Row, name: str, where: str) -> tuple[Message, ...]:
        """Return the chat up to the turn that awaits a response; in conversations an assistant's last turn is the one given."""
        messages = self.chat(row, name, where)
        if name != "prompt" and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not any(turn["role"] != "system" and turn["content"].strip() for turn in messages):
            raise RubricError(where, name, "a chat in which a user says something", at(row, name))
        if messages[-1]["role"] == "assistant":
            expected = "a chat that ends with a turn that awaits a response, not the assistant's"
            raise RubricError(where, name, expected, messages[-1])
        return messages

    def _criteria(self, listed: Entries, answer: str | None, where: str) -> tuple[Criterion, ...]:
        made: list[dict[str, Any]] = []
        titles: list[str] = []
        for path, raw in listed:
            entry, own = without_none(raw), isinstance(raw, Own)
            fields = dict(self.adapt(entry, answer, where, path))
            names = _OF_OWN if own else self.criterion
            for key, known in names.items():
                for name in known:
                    if name in entry:
                        if key not in fields:
                            fields[key] = _READ[key](entry, name, where, path)
                        break
            for key, needed in (("description", not fields.get("check")), ("points", self.points is None and not own)):
                if needed and key not in fields:
                    _READ[key](entry, names[key][0], where, path)  # says that it is missing
            titles.append(fields.pop("title", None) or fields.get("description") or f"{fields['check']['kind']}.".capitalize())
            fields.setdefault("points", 1.0)
            fields["where"] = f"{where}: {path}"
            made.append(fields)
        slugged = slugs(titles, [fields.get("description", title) for fields, title in zip(made, titles, strict=True)])
        for fields, name in zip(made, slugged, strict=True):
            fields.setdefault("description", fields.setdefault("name", name))
        return tuple([Criterion(**fields) for fields in made])

    def by_tag(self, rubric: Rubric, met: Sequence[float | None]) -> dict[str, float]:
        """Score the criteria of each tag alone, in the format's own terms, as far as there is a score.

        ``met`` says how far each criterion is met, in [0, 1]; None = not judged.
        """
        scores = {}
        for tag in sorted({tag for criterion in rubric.criteria for tag in criterion.tags}):
            own = [m if tag in criterion.tags else None for criterion, m in zip(rubric.criteria, met, strict=True)]
            scores[tag] = self.score(rubric, own)
        return {tag: score for tag, score in scores.items() if score is not None}

    def mean(self, scores: Sequence[float]) -> float | None:
        """Score of a data set: the mean over its responses, clipped where the format clips it; None without any."""
        if not scores:
            return None
        mean = sum(scores) / len(scores)
        return min(1.0, max(0.0, mean)) if self.clipped else mean


_KEPT = {"extra_info", "info"}  # they hold more than a rubric: a row keeps them among its other columns

FORMATS: dict[str, RubricFormat] = {}
"""Known formats by name; a row is of the first that it matches."""


def _flag(entry: Row, name: str, where: str, path: str) -> bool:
    value = at(entry, name)
    if not isinstance(value, bool):
        raise RubricError(where, f"{path}.{name}", "true or false", value)
    return value


_READ: dict[str, Callable[[Row, str, str, str], Any]] = {
    **dict.fromkeys(("name", "title", "description"), text_of),
    **dict.fromkeys(("points", "low", "high"), number_of),
    **dict.fromkeys(("check", "scope"), lambda entry, name, where, path: entry[name]),
    "tags": tags_of,
    "required": _flag,
}


def _has(row: Row, path: str) -> bool:
    path, text, _ = path.partition("=text")
    if text:
        return isinstance(decoded(at(row, path)), str)
    rubric, several, of_entry = path.partition("[].")
    if not several:
        return at(row, path) is not None
    try:
        listed = entries_of(row, rubric, "")
    except RubricError:
        return False
    return at(listed[0][1], of_entry) is not None


def _label(value: Any) -> Any:
    """A verdict; a grade that was written as text is a number."""
    text = value.strip() if isinstance(value, str) else ""
    return float(text) if text.replace(".", "", 1).isdecimal() else value


def share(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    """Mean of the judged criteria, whatever their points; None without any."""
    judged = [m for m in met if m is not None]
    return sum(judged) / len(judged) if judged else None


def weighted_mean(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    """``sum(points * met) / sum(points)`` over the judged criteria; None where that sum is 0."""
    judged = [(c.points, m) for c, m in zip(rubric.criteria, met, strict=True) if m is not None]
    total = sum(points for points, _ in judged)
    return sum(points * m for points, m in judged) / total if total else None
