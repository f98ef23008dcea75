"""Responses from a file, scored by rule under their rubrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_focal.judges import Judge, JudgeRequest, Outcome, Verdict
from lightning_focal.rubrics import FORMATS, Criterion, RubricRow

__all__ = ["read_responses", "score_responses"]

_IDS = ("id", "prompt_id", "key", "sample_id")


def read_responses(path: str | Path, rows: Sequence[RubricRow]) -> tuple[list[tuple[RubricRow, str]], list[dict[str, str]]]:
    """Read responses to the prompts of rubric rows.

    Args:
        path: JSON lines with ``response``, and ``id`` (or ``prompt_id``, ``key``, ``sample_id``) of the row it answers.
        rows: the rubric rows.

    Returns:
        Row and response in file order; and what is wrong with the other lines, as ``where``, ``kind`` (``response``), ``message``.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`responses` must be an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    by_id = {row.id: row for row in rows}
    found, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            found.append(_response(line, where, by_id))
        except ValueError as error:
            problems.append({"where": where, "kind": "response", "message": str(error)})
    return found, problems


def _response(line: str, where: str, by_id: Mapping[str, RubricRow]) -> tuple[RubricRow, str]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: the line must be JSON ({error.msg} at column {error.colno}), got {line[:100]!r}") from None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("response"), str):
        raise ValueError(f"{where}: `response` must be a string, got {_shown(entry, 'response')}")
    name = next((key for key in _IDS if entry.get(key) is not None), "id")
    row = by_id.get(str(entry.get(name)))
    if row is None:
        raise ValueError(f"{where}: `{name}` must be the id of a good rubric row, got {_shown(entry, name)}")
    return row, entry["response"]


def _shown(entry: Any, name: str) -> str:
    return repr(entry.get(name) if isinstance(entry, Mapping) else entry)[:100]


def score_responses(judge: Judge, responses: Sequence[tuple[RubricRow, str]]) -> dict[str, Any]:
    """Judge responses by the criteria that have a check, and score them.

    Args:
        judge: of rules.
        responses: see :func:`read_responses`.

    Returns:
        ``responses``: for each its ``id``; ``verdicts`` by criterion (``outcome``, ``met``, ``reason``, and ``score``, which for a
        fault is ``1 - met``; criteria without a check are "not judged"); ``score``, the mean criterion score under the rubric's own
        weights, in [0, 1]; ``own_score``, in the terms of its format. Both are over the judged criteria, and None without any.
        ``score`` and ``own_score`` of the whole file, the latter as its format averages; ``by_tag``, means of the own scores of
        each tag; ``errors``, the number of checks that failed.
    """
    requests = [
        JudgeRequest(row.messages, response, tuple(criterion for criterion in row.rubric.criteria if criterion.check is not None))
        for row, response in responses
    ]
    entries: list[dict[str, Any]] = []
    tags: dict[str, list[float]] = {}
    for (row, _), given in zip(responses, judge.judge(requests), strict=True):
        left = iter(given)
        verdicts = {
            criterion.name: _entry(criterion, None if criterion.check is None else next(left))
            for criterion in row.rubric.criteria
        }
        met = [verdict["met"] for verdict in verdicts.values()]
        known = FORMATS[row.format]
        for tag, score in known.by_tag(row.rubric, met).items():
            tags.setdefault(tag, []).append(score)
        own_score = known.score(row.rubric, met)
        entries.append({"id": row.id, "score": _weighted(row, verdicts), "own_score": own_score, "verdicts": verdicts})
    errors = sum(verdict["outcome"] == Outcome.ERROR for entry in entries for verdict in entry["verdicts"].values())
    own = [entry["own_score"] for entry in entries if entry["own_score"] is not None]
    prior = [entry["score"] for entry in entries if entry["score"] is not None]
    return {
        "score": sum(prior) / len(prior) if prior else None,
        "own_score": FORMATS[responses[0][0].format].mean(own),
        "by_tag": {tag: sum(scores) / len(scores) for tag, scores in sorted(tags.items())},
        "errors": errors,
        "responses": entries,
    }


def _entry(criterion: Criterion, verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"outcome": "not judged", "met": None, "score": None, "reason": ""}
    met = verdict.met(criterion)
    score = None if met is None else 1 - met if criterion.is_fault else met
    return {"outcome": verdict.outcome.value, "met": met, "score": score, "reason": verdict.reason}


def _weighted(row: RubricRow, verdicts: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean criterion score under the prior weights of the judged criteria."""
    judged = [
        (weight, verdict["score"])
        for weight, verdict in zip(row.rubric.prior_weights, verdicts.values(), strict=True)
        if verdict["score"] is not None
    ]
    total = sum(weight for weight, _ in judged)
    return sum(weight * score for weight, score in judged) / total if total else None
