"""ResearchRubrics: deep-research prompts and criteria with an axis and a weight, ``arXiv:2511.07685``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_focal.rubrics.readers.base import register
from lightning_focal.rubrics.readers.fields import has_entries, text_of
from lightning_focal.rubrics.readers.listed import ListedFormat

__all__ = ["ResearchRubricsFormat"]


@register
class ResearchRubricsFormat(ListedFormat):
    """``{"prompt", "sample_id", "rubrics": [{"criterion", "axis", "weight"}]}``.

    The axis becomes the tag ``axis:...``. A judge grades 0, 0.5 or 1.
    """

    name = "researchrubrics"
    fields = "prompt, sample_id, rubrics (criterion, axis, weight)"
    terms = "sum of weight times grade (0, 0.5, 1) / sum of positive weights"
    id_field = "sample_id"
    points_field = "weight"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt and rubrics with an axis and a weight."""
        return "prompt" in row and has_entries(row, "rubrics", "criterion", "axis", "weight")

    def tags(self, entry: Mapping[str, Any], where: str, label: str) -> tuple[str, ...]:
        """The axis."""
        return (f"axis:{text_of(entry, 'axis', where, f'{label}.axis')}",)
