"""RubricHub: a question and criteria with points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register
from lightning_focal.rubrics.readers.fields import entries_of, has_entries, id_of, messages_of, number_of, slugs, text_of

__all__ = ["RubricHubFormat"]


@register
class RubricHubFormat(RubricFormat):
    """``{"question", "id", "rubrics": [{"criterion", "points"}]}``."""

    name = "rubrichub"
    fields = "question, id, rubrics (criterion, points)"
    terms = "points earned / points possible"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a question and rubrics with points."""
        return "question" in row and has_entries(row, "rubrics", "criterion", "points")

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        entries = entries_of(row, "rubrics", where)
        texts = [text_of(entry, "criterion", where, f"rubrics[{i}].criterion") for i, entry in enumerate(entries)]
        criteria = tuple(
            Criterion(name, text, number_of(entry, "points", where, f"rubrics[{i}].points"), where=f"{where}: rubrics[{i}]")
            for i, (name, text, entry) in enumerate(zip(slugs(texts), texts, entries, strict=True))
        )
        extra = {key: value for key, value in row.items() if key not in ("id", "question", "rubrics")}
        return RubricRow(
            id=id_of(row, "id", where, default_id),
            messages=messages_of(row, "question", where),
            rubric=Rubric(criteria, extra, where),
            extra=extra,
        )
