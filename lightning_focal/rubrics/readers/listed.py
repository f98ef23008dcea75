"""What formats share whose row is a prompt and a list of texts with points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow
from lightning_focal.rubrics.readers.fields import entries_of, id_of, messages_of, number_of, slugs, text_of

__all__ = ["ListedFormat"]


class ListedFormat(RubricFormat):
    """A prompt and ``rubrics: [{"criterion", points, ...}]``.

    A criterion is named by the first words of its text, numbered where two agree (ours); the text is its description.
    """

    id_field: ClassVar[str]
    prompt_field: ClassVar[str] = "prompt"
    points_field: ClassVar[str] = "points"

    def tags(self, entry: Mapping[str, Any], where: str, label: str) -> tuple[str, ...]:
        """Tags of an entry, which stands at ``label``; none where the format has none."""
        return ()

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        entries = entries_of(row, "rubrics", where)
        texts = [text_of(entry, "criterion", where, f"rubrics[{i}].criterion") for i, entry in enumerate(entries)]
        criteria = tuple(
            Criterion(
                name=name,
                description=text,
                points=number_of(entry, self.points_field, where, f"rubrics[{i}].{self.points_field}"),
                tags=self.tags(entry, where, f"rubrics[{i}]"),
                where=f"{where}: rubrics[{i}]",
            )
            for i, (name, text, entry) in enumerate(zip(slugs(texts), texts, entries, strict=True))
        )
        extra = {key: value for key, value in row.items() if key not in (self.id_field, self.prompt_field, "rubrics")}
        return RubricRow(
            id=id_of(row, self.id_field, where, default_id),
            messages=messages_of(row, self.prompt_field, where),
            rubric=Rubric(criteria, extra, where),
            extra=extra,
        )
