"""What a response is measured by: one criterion, and the rubric that several of them form."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Criterion", "Rubric", "RubricError", "is_number"]


class RubricError(ValueError):
    """A rubric file, row or criterion that is malformed: its place, the field (empty = the row), what should have stood there, what did.

    >>> print(RubricError("train.jsonl:17", "rubric[2].points", "a finite number", "three"))
    train.jsonl:17: `rubric[2].points` must be a finite number, got 'three'
    """

    def __init__(self, where: str, field: str, expected: str, got: object) -> None:
        self.where, self.field, self.expected, self.got = where, field, expected, got
        super().__init__(where, field, expected, got)

    def __str__(self) -> str:
        shown = repr(self.got)
        shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
        name = f"`{self.field}`" if self.field else "the row"
        return f"{f'{self.where}: ' if self.where else ''}{name} must be {self.expected}, got {shown}"


def is_number(value: object) -> bool:
    """True for a finite number that is no truth value and fits a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class Criterion:
    """One thing a response does or does not do.

    Negative points describe a fault: its score is ``1 - met`` and its weight ``|points|`` (ours), so every criterion points the same way.

    Args:
        name: short, unique within a rubric; the name it is logged under.
        description: the text a judge reads.
        points: finite; negative = a fault, 0 = reported but without weight.
        tags: labels such as ``axis:brevity``; the first ``axis:`` tag names the level it is tracked under.
        check: ``{"kind": "max_words", "words": 60}`` for the rule judge, or None where a language model judges the description.
        low: value of a graded verdict that scores 0.
        high: value of a graded verdict that scores 1.
        required: a rollout that misses it is gated by strategies with gates.
        scope: what of a response is judged: its ``answer``, its ``thought``, or ``both``; or the whole ``conversation`` with an
            environment, without thoughts (the answer where there was one turn).
        where: place it was read from, for error messages; not part of equality.

    Raises:
        RubricError: naming the field, what was expected and what came, after ``where``.

    >>> Criterion("short", "At most 60 words.", check={"kind": "max_words", "words": 60}).points
    1.0
    """

    name: str
    description: str
    points: float = 1.0
    tags: tuple[str, ...] = ()
    check: Mapping[str, Any] | None = field(default=None, hash=False)
    low: float = 0.0
    high: float = 1.0
    required: bool = False
    scope: Literal["answer", "thought", "both", "conversation"] = "answer"
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise RubricError(self.where, "name", "a non-empty string", self.name)
        here = self.place
        if not isinstance(self.description, str):
            raise RubricError(here, "description", "a string", self.description)
        for label in ("points", "low", "high"):
            if not is_number(getattr(self, label)):
                raise RubricError(here, label, "a finite number", getattr(self, label))
            object.__setattr__(self, label, float(getattr(self, label)))
        if self.low >= self.high:
            raise RubricError(here, "low", f"below `high` ({self.high})", self.low)
        if not isinstance(self.tags, (list, tuple)) or not all(isinstance(tag, str) for tag in self.tags):
            raise RubricError(here, "tags", "a list of strings", self.tags)
        object.__setattr__(self, "tags", tuple(self.tags))
        if not isinstance(self.required, bool):
            raise RubricError(here, "required", "true or false", self.required)
        if self.scope not in ("answer", "thought", "both", "conversation"):
            raise RubricError(here, "scope", "answer, thought, both or conversation", self.scope)
        check: Any = {"kind": self.check} if isinstance(self.check, str) else self.check
        if check is not None:
            if not isinstance(check, Mapping) or not isinstance(check.get("kind"), str):
                raise RubricError(here, "check", "the name of a kind or a mapping with a string `kind`", check)
            object.__setattr__(self, "check", dict(check))

    @property
    def place(self) -> str:
        """Where it was read from and its name, for error messages."""
        return f"{self.where}: criterion {self.name!r}" if self.where else f"criterion {self.name!r}"

    @property
    def is_fault(self) -> bool:
        """True for negative points: meeting the criterion is bad."""
        return self.points < 0


@dataclass(frozen=True)
class Rubric:
    """The criteria of one prompt.

    Args:
        criteria: at least one, names unique, not all with zero points.
        extra: further columns of the row it came from, kept for the way back.
        where: place it was read from, for error messages; not part of equality.

    Raises:
        RubricError: on no criteria, a duplicate name, or points that are all zero.

    >>> rubric = Rubric((Criterion("right", "Is right.", 3), Criterion("rude", "Is rude.", -1)))
    >>> rubric.prior_weights, rubric.max_points
    ((0.75, 0.25), 3.0)
    >>> rubric.raw_score([True, True])
    0.6666666666666666
    """

    criteria: tuple[Criterion, ...]
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "criteria", tuple(self.criteria))
        if not self.criteria:
            raise RubricError(self.where, "criteria", "at least one criterion", [])
        seen: dict[str, int] = {}
        for i, criterion in enumerate(self.criteria):
            if not isinstance(criterion, Criterion):
                raise RubricError(self.where, f"criteria[{i}]", "a Criterion", criterion)
            if criterion.name in seen:
                expected = f"unique within the rubric (first at criteria[{seen[criterion.name]}])"
                raise RubricError(self.where, f"criteria[{i}].name", expected, criterion.name)
            seen[criterion.name] = i
        total = sum(abs(criterion.points) for criterion in self.criteria)
        if not 0 < total < math.inf:
            expected = "of a finite sum" if total else "other than zero for some criterion"
            raise RubricError(self.where, "points", expected, [c.points for c in self.criteria])

    def __len__(self) -> int:
        return len(self.criteria)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the criteria, in order."""
        return tuple(criterion.name for criterion in self.criteria)

    @property
    def prior_weights(self) -> tuple[float, ...]:
        """``|points| / sum |points|``: the rubric's own weights, sum 1."""
        total = math.fsum(abs(criterion.points) for criterion in self.criteria)
        return tuple(abs(criterion.points) / total for criterion in self.criteria)

    @property
    def max_points(self) -> float:
        """Sum of the positive points; 0 when every criterion is a fault."""
        return math.fsum(criterion.points for criterion in self.criteria if criterion.points > 0)

    def raw_score(self, met_values: Sequence[float | bool | None]) -> float | None:
        """Score in HealthBench's own terms: ``sum(points * met) / sum(positive points)``, unclipped.

        Args:
            met_values: how far each criterion is met, in [0, 1]; for a fault 1 = the fault is there. None = not judged: it leaves both
                sums (ours).

        Returns:
            The score, at most 1, possibly negative; None where no positive points were judged.
        """
        if len(met_values) != len(self.criteria):
            raise ValueError(f"`met_values` must hold one value per criterion ({len(self.criteria)}), got {len(met_values)}")
        judged = [(c.points, float(met)) for c, met in zip(self.criteria, met_values, strict=True) if met is not None]
        possible = math.fsum(points for points, _ in judged if points > 0)
        return math.fsum(points * met for points, met in judged) / possible if possible else None
