"""RubricHub: a question and criteria with points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_focal.rubrics.readers.base import register
from lightning_focal.rubrics.readers.fields import has_entries
from lightning_focal.rubrics.readers.listed import ListedFormat

__all__ = ["RubricHubFormat"]


@register
class RubricHubFormat(ListedFormat):
    """``{"question", "id", "rubrics": [{"criterion", "points"}]}``."""

    name = "rubrichub"
    fields = "question, id, rubrics (criterion, points)"
    terms = "points earned / points possible"
    id_field = "id"
    prompt_field = "question"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a question and rubrics with points."""
        return "question" in row and has_entries(row, "rubrics", "criterion", "points")
