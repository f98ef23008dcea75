"""What a rubric format is, and the registry of those that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_focal.rubrics.criterion import Rubric
from lightning_focal.rubrics.readers.fields import Row
from lightning_focal.types import Message

__all__ = ["FORMATS", "RubricFormat", "RubricRow", "Score", "format_table", "rubric_format", "weighted_mean"]

Score = Callable[[Rubric, Sequence[float | None]], float | None]
"""Scores a response, given how far each criterion is met, in [0, 1] (None = not judged); None where nothing that counts was judged."""


@dataclass(frozen=True)
class RubricRow:
    """One row of a rubric file.

    Args:
        id: the row's own id, or ``<file stem>:<line>``; unique within the file.
        messages: the chat to answer.
        rubric: what answers are measured by.
        answer: the gold answer where the row has one.
        extra: the other columns.
        format: name of the format it was written in, see :data:`FORMATS`.
        raw: the row as it stood in the file, every field of it; not part of equality.
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

    Args:
        name: what it is called.
        fields: what its rows hold, in words.
        matches: says whether a row looks like this format; one row a file is asked, before any is parsed.
        parse: reads a row, given also its place and the id it has without one of its own; raises RubricError, which starts with
            the place and names the field, what was expected and what stood there.
        score: the format's own score of a response, for reports.
        terms: that score in words.
        clipped: whether the mean over a data set is clipped to [0, 1].
    """

    name: str
    fields: str
    matches: Callable[[Row], bool]
    parse: Callable[[Row, str, str], RubricRow]
    score: Score = Rubric.raw_score
    terms: str = "sum of met points / sum of positive points"
    clipped: bool = False

    def by_tag(self, rubric: Rubric, met: Sequence[float | None]) -> dict[str, float]:
        """Score the criteria of each tag alone, in the format's own terms.

        Args:
            rubric: the rubric.
            met: how far each criterion is met, in [0, 1]; None = not judged.

        Returns:
            One score a tag; a tag without one (nothing of it was judged, or none of it has positive points) is left out.
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


FORMATS: dict[str, RubricFormat] = {}
"""Known formats by name; a row matches at most one."""

Parse = Callable[[Row, str, str], RubricRow]


def rubric_format(name: str, fields: str, matches: Callable[[Row], bool], **options: Any) -> Callable[[Parse], Parse]:
    """Add the format that the decorated function parses to :data:`FORMATS`; see :class:`RubricFormat`."""

    def add(parse: Parse) -> Parse:
        FORMATS[name] = RubricFormat(name, fields, matches, parse, **options)
        return parse

    return add


def weighted_mean(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    """``sum(points * met) / sum(points)`` over the judged criteria; None where that sum is 0."""
    judged = [(c.points, m) for c, m in zip(rubric.criteria, met, strict=True) if m is not None]
    total = sum(points for points, _ in judged)
    return sum(points * m for points, m in judged) / total if total else None


def format_table() -> str:
    """Write the known formats as a markdown table, as the documentation shows it."""
    rows = ["| format | fields of a row | score in its own terms |", "|---|---|---|"]
    rows += [f"| `{name}` | {known.fields} | {known.terms} |" for name, known in sorted(FORMATS.items())]
    return "\n".join(rows)
