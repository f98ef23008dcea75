"""ResearchRubrics: deep-research prompts and criteria with an axis and a weight, ``arXiv:2511.07685``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register
from lightning_focal.rubrics.readers.fields import entries_of, has_entries, id_of, messages_of, number_of, slugs, text_of

__all__ = ["ResearchRubricsFormat"]


@register
class ResearchRubricsFormat(RubricFormat):
    """``{"prompt", "sample_id", "rubrics": [{"criterion", "axis", "weight"}]}``.

    The axis becomes the tag ``axis:...``. A judge grades 0, 0.5 or 1.
    """

    name = "researchrubrics"
    fields = "prompt, sample_id, rubrics (criterion, axis, weight)"
    terms = "sum of weight times grade (0, 0.5, 1) / sum of positive weights"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt and rubrics with an axis and a weight."""
        return "prompt" in row and has_entries(row, "rubrics", "criterion", "axis", "weight")

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        entries = entries_of(row, "rubrics", where)
        texts = [text_of(entry, "criterion", where, f"rubrics[{i}].criterion") for i, entry in enumerate(entries)]
        criteria = tuple(
            Criterion(
                name=name,
                description=text,
                points=number_of(entry, "weight", where, f"rubrics[{i}].weight"),
                tags=(f"axis:{text_of(entry, 'axis', where, f'rubrics[{i}].axis')}",),
                where=f"{where}: rubrics[{i}]",
            )
            for i, (name, text, entry) in enumerate(zip(slugs(texts), texts, entries, strict=True))
        )
        extra = {key: value for key, value in row.items() if key not in ("sample_id", "prompt", "rubrics")}
        return RubricRow(
            id=id_of(row, "sample_id", where, default_id),
            messages=messages_of(row, "prompt", where),
            rubric=Rubric(criteria, extra, where),
            extra=extra,
        )
