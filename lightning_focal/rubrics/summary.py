"""What a rubric file holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lightning_focal.rubrics.readers.base import RubricRow

__all__ = ["summary_of"]


def summary_of(rows: Sequence[RubricRow]) -> dict[str, Any]:
    """Count what rows, at least one, hold.

    ``criteria_per_row`` and ``points_per_row`` (of the positive ones) are ``min``, ``mean``, ``max``; ``distinct_criteria`` goes by name;
    ``graded`` are criteria of a range other than 0 to 1, ``on_thoughts`` those of a scope other than the answer.
    """
    criteria = [criterion for row in rows for criterion in row.rubric.criteria]
    return {
        "rows": len(rows),
        "criteria": len(criteria),
        "distinct_criteria": len({criterion.name for criterion in criteria}),
        "criteria_per_row": _spread([len(row.rubric) for row in rows]),
        "points_per_row": _spread([row.rubric.max_points for row in rows]),
        "points": {
            "sum": sum(criterion.points for criterion in criteria),
            "positive": sum(criterion.points > 0 for criterion in criteria),
            "negative": sum(criterion.points < 0 for criterion in criteria),
            "zero": sum(criterion.points == 0 for criterion in criteria),
        },
        "tags": _counted(tag for criterion in criteria for tag in criterion.tags),
        "checks": _counted(str(criterion.check["kind"]) for criterion in criteria if criterion.check is not None),
        "without_check": sum(criterion.check is None for criterion in criteria),
        "graded": sum((criterion.low, criterion.high) != (0, 1) for criterion in criteria),
        "required": sum(criterion.required for criterion in criteria),
        "on_thoughts": sum(criterion.scope != "answer" for criterion in criteria),
        "answers": sum(row.answer is not None for row in rows),
    }


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}
