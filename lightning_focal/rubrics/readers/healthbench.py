"""HealthBench: a chat and physician-written criteria with points, ``arXiv:2505.08775``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register
from lightning_focal.rubrics.readers.fields import entries_of, id_of, messages_of, number_of, slugs, tags_of, text_of

__all__ = ["HealthBenchFormat"]


@register
class HealthBenchFormat(RubricFormat):
    """``{"prompt_id", "prompt": [{role, content}], "rubrics": [{"criterion", "points", "tags"}], "example_tags"}``.

    A criterion is named by the first words of its text, numbered where two agree (ours); the text is its description.
    """

    name = "healthbench"
    terms = "sum of met points / sum of positive points; only the mean over a data set is clipped to 0..1"
    fields = "prompt_id, prompt, rubrics (criterion, points, tags)"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt id, a prompt and rubrics."""
        return {"prompt_id", "prompt", "rubrics"} <= row.keys()

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        entries = entries_of(row, "rubrics", where)
        texts = [text_of(entry, "criterion", where, f"rubrics[{i}].criterion") for i, entry in enumerate(entries)]
        criteria = tuple(
            Criterion(
                name=name,
                description=text,
                points=number_of(entry, "points", where, f"rubrics[{i}].points"),
                tags=tags_of(entry, "tags", where, f"rubrics[{i}].tags"),
                where=f"{where}: rubrics[{i}]",
            )
            for i, (name, text, entry) in enumerate(zip(slugs(texts), texts, entries, strict=True))
        )
        tags_of(row, "example_tags", where)
        extra = {key: value for key, value in row.items() if key not in ("prompt_id", "prompt", "rubrics")}
        return RubricRow(
            id=id_of(row, "prompt_id", where, default_id),
            messages=messages_of(row, "prompt", where),
            rubric=Rubric(criteria, extra, where),
            extra=extra,
        )
