"""What a rubric format is, and the registry of those that are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from lightning_focal.rubrics.criterion import Rubric
from lightning_focal.types import Message

__all__ = ["FORMATS", "RubricFormat", "RubricRow", "clipped_mean", "format_table", "register", "weighted_mean"]


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


class RubricFormat(ABC):
    """One way of writing rubrics down.

    ``name`` is what the format is called, ``fields`` says in words what its rows hold, ``terms`` how it scores a response itself.
    """

    name: ClassVar[str]
    fields: ClassVar[str]
    terms: ClassVar[str] = "sum of met points / sum of positive points"

    @abstractmethod
    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row looks like this format; one row a file is asked, before any is parsed."""

    @abstractmethod
    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row.

        Raises:
            RubricError: starting with ``where``, naming the field, what was expected and what stood there.
        """

    def score(self, rubric: Rubric, met: Sequence[float | None]) -> float | None:
        """Score a response in the format's own terms, for reports.

        Args:
            rubric: the rubric.
            met: how far each criterion is met, in [0, 1]; None = not judged.

        Returns:
            The score; None where nothing that counts was judged.
        """
        return rubric.raw_score(met)

    def by_tag(self, rubric: Rubric, met: Sequence[float | None]) -> dict[str, float]:
        """Score the criteria of each tag alone, in the format's own terms.

        Args:
            rubric: the rubric.
            met: as in :meth:`score`.

        Returns:
            One score a tag; a tag without one (nothing of it was judged, or none of it has positive points) is left out.
        """
        scores = {}
        for tag in sorted({tag for criterion in rubric.criteria for tag in criterion.tags}):
            own = [m if tag in criterion.tags else None for criterion, m in zip(rubric.criteria, met, strict=True)]
            score = self.score(rubric, own)
            if score is not None:
                scores[tag] = score
        return scores

    def mean(self, scores: Sequence[float]) -> float | None:
        """Score of a data set: the mean over its responses, clipped where the format clips it; None without any."""
        return sum(scores) / len(scores) if scores else None


FORMATS: dict[str, RubricFormat] = {}
"""Known formats by name; a row matches at most one."""

_Format = TypeVar("_Format", bound=type[RubricFormat])


def register(cls: _Format) -> _Format:
    """Add a format to :data:`FORMATS`."""
    FORMATS[cls.name] = cls()
    return cls


def weighted_mean(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    """``sum(points * met) / sum(points)`` over the judged criteria; None where that sum is 0."""
    judged = [(c.points, m) for c, m in zip(rubric.criteria, met, strict=True) if m is not None]
    total = sum(points for points, _ in judged)
    return sum(points * m for points, m in judged) / total if total else None


def clipped_mean(scores: Sequence[float]) -> float | None:
    """Mean clipped to [0, 1], as HealthBench clips it: over the data set, not row by row; None without any.

    >>> clipped_mean([0.5, -2.0]), clipped_mean([0.5, -0.25]), clipped_mean([])
    (0.0, 0.125, None)
    """
    return min(1.0, max(0.0, sum(scores) / len(scores))) if scores else None


def format_table() -> str:
    """Write the known formats as a markdown table, as the documentation shows it."""
    rows = ["| format | fields of a row | score in its own terms |", "|---|---|---|"]
    rows += [f"| `{name}` | {known.fields} | {known.terms} |" for name, known in sorted(FORMATS.items())]
    return "\n".join(rows)
