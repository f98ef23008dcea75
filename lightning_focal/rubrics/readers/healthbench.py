"""HealthBench: a chat and physician-written criteria with points, ``arXiv:2505.08775``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.readers.base import RubricRow, clipped_mean, register
from lightning_focal.rubrics.readers.fields import tags_of
from lightning_focal.rubrics.readers.listed import ListedFormat

__all__ = ["HealthBenchFormat"]


@register
class HealthBenchFormat(ListedFormat):
    """``{"prompt_id", "prompt": [{role, content}], "rubrics": [{"criterion", "points", "tags"}], "example_tags"}``."""

    name = "healthbench"
    terms = "sum of met points / sum of positive points; only the mean over a data set is clipped to 0..1"
    fields = "prompt_id, prompt, rubrics (criterion, points, tags)"
    id_field = "prompt_id"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt id, a prompt and rubrics."""
        return {"prompt_id", "prompt", "rubrics"} <= row.keys()

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        parsed = super().parse(row, where, default_id)
        tags_of(row, "example_tags", where)
        return parsed

    def tags(self, entry: Mapping[str, Any], where: str, label: str) -> tuple[str, ...]:
        """The entry's own tags, such as ``axis:accuracy``."""
        return tags_of(entry, "tags", where, f"{label}.tags")

    def mean(self, scores: Sequence[float]) -> float | None:
        """Mean over the responses, clipped to [0, 1]."""
        return clipped_mean(scores)
