"""The one error that malformed rubrics raise."""

from __future__ import annotations

__all__ = ["RubricError"]


class RubricError(ValueError):
    """A rubric file, row or criterion that is malformed.

    Args:
        where: the place, ``train.jsonl:17``; may be empty.
        field: the field, ``rubric[2].points``; empty where the row as a whole is meant.
        expected: what should have stood there.
        got: what stood there; shown shortened.

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
