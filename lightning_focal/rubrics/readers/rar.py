"""Rubrics as Rewards: RaR-Medicine and RaR-Science, ``arXiv:2507.17746``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register, weighted_mean
from lightning_focal.rubrics.readers.fields import (
    answer_of,
    entries_of,
    has_entries,
    id_of,
    messages_of,
    number_of,
    slugs,
    text_of,
)

__all__ = ["CATEGORY_POINTS", "RaRFormat", "category_of"]

CATEGORY_POINTS = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}
"""Points of a criterion that has no weight of its own, by category."""


def category_of(text: str) -> str | None:
    """Return the category that stands in front of a criterion's text, spelling mistakes forgiven.

    >>> category_of("Essental Criteria: Names the nerve."), category_of("Names the nerve.")
    ('essential', None)
    """
    prefix, colon, _ = text.partition(":")
    words = prefix.split()
    if not colon or not words or len(words) > 3:
        return None
    close = difflib.get_close_matches(words[0].lower(), CATEGORY_POINTS, n=1, cutoff=0.75)
    return close[0] if close else None


@register
class RaRFormat(RubricFormat):
    """``{"question", "reference_answer", "rubric": [{"title", "description", "weight"}]}``.

    Points are the row's own weights, negative ones included; a criterion without a weight has those of its category. The
    category becomes the tag ``category:...``.
    """

    name = "rar"
    fields = "question, reference_answer, rubric (title, description, weight)"
    terms = "sum of weight times met / sum of weights"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a question and a rubric of titles and descriptions."""
        return "question" in row and has_entries(row, "rubric", "title", "description")

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        entries = entries_of(row, "rubric", where)
        names = slugs(text_of(entry, "title", where, f"rubric[{i}].title") for i, entry in enumerate(entries))
        criteria = []
        for i, (entry, name) in enumerate(zip(entries, names, strict=True)):
            text = text_of(entry, "description", where, f"rubric[{i}].description")
            category = category_of(text)
            if entry.get("weight") is None and category is not None:
                points = CATEGORY_POINTS[category]
            else:
                points = number_of(entry, "weight", where, f"rubric[{i}].weight")
            tags = () if category is None else (f"category:{category}",)
            criteria.append(Criterion(name, text, points, tags, where=f"{where}: rubric[{i}]"))
        extra = {key: value for key, value in row.items() if key not in ("id", "question", "reference_answer", "rubric")}
        return RubricRow(
            id=id_of(row, "id", where, default_id),
            messages=messages_of(row, "question", where),
            rubric=Rubric(tuple(criteria), extra, where),
            answer=answer_of(row, "reference_answer", where),
            extra=extra,
        )

    def score(self, rubric: Rubric, met: Sequence[float | None]) -> float | None:
        """``sum(w c) / sum(w)`` over the judged criteria."""
        return weighted_mean(rubric, met)
