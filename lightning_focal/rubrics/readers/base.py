"""What a rubric format is, and the registry of those that are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from lightning_focal.rubrics.criterion import Rubric
from lightning_focal.types import Message

__all__ = ["FORMATS", "RubricFormat", "RubricRow", "register"]


@dataclass(frozen=True)
class RubricRow:
    """One row of a rubric file.

    Args:
        id: the row's own id, or ``<file stem>:<line>``; unique within the file.
        messages: the chat to answer.
        rubric: what answers are measured by.
        answer: the gold answer where the row has one.
        extra: the other columns.
    """

    id: str
    messages: tuple[Message, ...]
    rubric: Rubric
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class RubricFormat(ABC):
    """One way of writing rubrics down.

    ``name`` is what the format is called, ``fields`` says in words what its rows hold.
    """

    name: ClassVar[str]
    fields: ClassVar[str]

    @abstractmethod
    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row looks like this format; one row a file is asked, before any is parsed."""

    @abstractmethod
    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row.

        Raises:
            RubricError: starting with ``where``, naming the field, what was expected and what stood there.
        """


FORMATS: dict[str, RubricFormat] = {}
"""Known formats by name, in the order in which they are tried."""

_Format = TypeVar("_Format", bound=type[RubricFormat])


def register(cls: _Format) -> _Format:
    """Add a format to :data:`FORMATS`."""
    FORMATS[cls.name] = cls()
    return cls
