"""Rollouts and figures packed for the page: columns in place of rows, deflated, as text that no HTML parser minds."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_focal.types import level_key

__all__ = ["OUTCOMES", "deflated", "pack_rollouts", "packed_json"]

OUTCOMES = {"met": "m", "part": "p", "not met": "n", "failed": "f", "not judged": "-"}
"""What became of a criterion, and the letter it is packed as."""


def deflated(text: str) -> str:
    """Deflate and write as base64: a browser undoes both without a library."""
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode("ascii")


def packed_json(content: Any) -> str:
    """The same of a JSON value; numbers that are not finite become null, half surrogates stay escaped."""
    return deflated(json.dumps(_finite(content), ensure_ascii=True, separators=(",", ":"), allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content


class _Table:
    """Values by their number, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        if value not in self._places:
            self._places[value] = len(self.values)
            self.values.append(value)
        return self._places[value]


def pack_rollouts(runs: Sequence[tuple[str, Iterable[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Return rollouts of several runs as columns, strings that recur kept once.

    Args:
        runs: title and rows of each, rows as in :class:`~lightning_focal.report.rollouts.RecordedRollouts`.

    Returns:
        ``runs`` titles; ``prompts`` texts; ``rubrics`` criteria as ``[name, key, tags]``; ``reasons`` texts; ``groups`` as
        ``[run, stage, batch, prompt, rubric, weights, saturations, prior weights]``; and, one entry a rollout, ``group``,
        ``number``, ``text``, ``reward``, ``static``, ``advantage``, ``change`` (of rank), ``tokens``, ``cut``, ``outcome`` (a letter a
        criterion, see :data:`OUTCOMES`), ``score`` (by criterion, where it is neither 0 nor 1), ``fault`` (places of faults that were found) and
        ``reason`` (a number a criterion, into ``reasons``).
    """
    prompts, rubrics, reasons, groups = _Table(), _Table(), _Table(), _Table()
    names = (
        "group",
        "number",
        "text",
        "reward",
        "static",
        "advantage",
        "change",
        "tokens",
        "cut",
        "outcome",
        "score",
        "fault",
        "reason",
    )
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for at, (_, rows) in enumerate(runs):
        for row in rows:
            criteria = row["criteria"]
            rubric = rubrics.place(
                tuple((c["name"], level_key(c["name"], c["tags"] or []), tuple(c["tags"] or ())) for c in criteria)
            )
            chat = tuple((m["role"] or "", m["content"] or "") for m in row["messages"] or ())
            per_prompt = (tuple(_short(c[name]) for c in criteria) for name in ("weight", "saturation", "prior_weight"))
            group = (at, row["stage"], row["batch"], prompts.place(chat), rubric, *per_prompt)
            values = (
                groups.place(group),
                row["rollout"],
                row["response"] or "",
                _short(row["reward"]),
                _short(row["static_reward"]),
                _short(row.get("advantage")),
                row["rank_change"],
                row.get("tokens"),
                int(bool(row.get("truncated"))),
                "".join(OUTCOMES[outcome(c)] for c in criteria),
                {i: _short(c["score"]) for i, c in enumerate(criteria) if outcome(c) == "part"},
                [i for i, c in enumerate(criteria) if c.get("outcome") == "met" and c["score"] == 0],
                [reasons.place(c.get("reason") or "") for c in criteria],
            )
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
    tables = {"prompts": prompts.values, "rubrics": rubrics.values, "reasons": reasons.values, "groups": groups.values}
    return {"runs": [title for title, _ in runs], **tables, **columns}


def outcome(criterion: Mapping[str, Any]) -> str:
    """What became of a criterion, in terms of its score: 1 is met, also of a fault that was not found.

    >>> outcome({"score": 1.0, "outcome": "not_met"}), outcome({"score": None, "outcome": "error"})
    ('met', 'failed')
    """
    score = criterion["score"]
    if score is None or not math.isfinite(score):
        return "failed" if criterion.get("outcome") == "error" else "not judged"
    return "met" if score >= 1 else "part" if score > 0 else "not met"


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)
