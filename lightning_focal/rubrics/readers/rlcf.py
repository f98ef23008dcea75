"""RLCF checklists: requirements with an importance out of 100, ``arXiv:2507.18624``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.errors import RubricError
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, register, weighted_mean
from lightning_focal.rubrics.readers.fields import id_of, messages_of, number_of, slugs

__all__ = ["RLCFFormat"]

_ITEM = re.compile(r"\s*(?:\d+[).]|[*•-])?\s*(?P<text>.*\S)\s*\(importance:\s*(?P<weight>\d+(?:\.\d+)?)\s*/\s*100\)\s*")
_EXPECTED = "lines like '1) ... (importance: 90/100)', or a list of [text, weight from 0 to 100]"


@register
class RLCFFormat(RubricFormat):
    r"""``{"prompt", "requirements": "1) ... (importance: 100/100)\n2) ..."}`` or ``[[text, weight 0-100], ...]``.

    A judge grades each requirement from 0 to 100.
    """

    name = "rlcf"
    fields = "prompt, requirements (text, importance out of 100)"
    terms = "sum of weight times grade / sum of weights, clipped to 0..1"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt and requirements."""
        return {"prompt", "requirements"} <= row.keys()

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        items = self._items(row["requirements"], where)
        criteria = tuple(
            Criterion(name, text, weight, low=0, high=100, where=f"{where}: requirements[{i}]")
            for i, (name, (text, weight)) in enumerate(zip(slugs(text for text, _ in items), items, strict=True))
        )
        extra = {key: value for key, value in row.items() if key not in ("id", "prompt", "requirements")}
        return RubricRow(
            id=id_of(row, "id", where, default_id),
            messages=messages_of(row, "prompt", where),
            rubric=Rubric(criteria, extra, where),
            extra=extra,
        )

    def score(self, rubric: Rubric, met: Sequence[float | None]) -> float | None:
        """``clip(sum(s w) / sum(w), 0, 1)`` over the judged requirements."""
        mean = weighted_mean(rubric, met)
        return None if mean is None else min(1.0, max(0.0, mean))

    @staticmethod
    def _items(value: object, where: str) -> list[tuple[str, float]]:
        items: list[tuple[str, float]] = []
        if isinstance(value, str):
            for i, line in enumerate(line for line in value.split("\n") if line.strip()):
                match = _ITEM.fullmatch(line)
                if match is None:
                    raise RubricError(where, f"requirements[{i}]", _EXPECTED, line)
                items.append((match["text"], float(match["weight"])))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], str) or not item[0].strip():
                    raise RubricError(where, f"requirements[{i}]", _EXPECTED, item)
                items.append((item[0], number_of({"weight": item[1]}, "weight", where, f"requirements[{i}][1]")))
        if not items:
            raise RubricError(where, "requirements", _EXPECTED, value)
        for i, (_, weight) in enumerate(items):
            if not 0 <= weight <= 100:
                raise RubricError(where, f"requirements[{i}]", "weighted from 0 to 100", weight)
        return items
