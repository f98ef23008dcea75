"""RuscaRL and verl-rubric: verl rows whose reward model is a rubric, ``arXiv:2508.16949``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.errors import RubricError
from lightning_focal.rubrics.readers.base import RubricFormat, RubricRow, clipped_mean, register
from lightning_focal.rubrics.readers.fields import (
    answer_of,
    entries_of,
    id_of,
    messages_of,
    number_of,
    slugs,
    tags_of,
    text_of,
    without_none,
)

__all__ = ["RuscaRLFormat"]

_KEPT = ("prompt", "reward_model", "id")


@register
class RuscaRLFormat(RubricFormat):
    """``{"prompt", "reward_model": {"style": "rubric", "rubrics": [{"criterion", "points", "tags"}]}, "data_source", ...}``.

    Tags are a list (``["verifier:rule", "function:math_verify", "parameters:42"]``) or a mapping of the same. An item with
    ``verifier`` ``rule`` becomes a check: ``math_verify`` the check ``answer``, ``word_count_range`` the check ``words_between``;
    so does one with ``verifier`` ``math`` (ours), whose function is ``math_verify`` and whose answer is the row's by default.
    """

    name = "ruscarl"
    fields = "prompt, reward_model (rubrics (criterion, points, tags)), data_source, extra_info"
    terms = "sum of met points / sum of positive points; only the mean over a data set is clipped to 0..1"

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row has a prompt and a reward model with rubrics."""
        return "prompt" in row and isinstance(row.get("reward_model"), Mapping) and "rubrics" in row["reward_model"]

    def parse(self, row: Mapping[str, Any], where: str, default_id: str) -> RubricRow:
        """Read one row."""
        model = row.get("reward_model")
        if not isinstance(model, Mapping):
            raise RubricError(where, "reward_model", "a mapping with `rubrics`", model)
        entries = [without_none(entry) for entry in entries_of(model, "rubrics", f"{where}: reward_model")]
        label = "reward_model.rubrics"
        texts = [text_of(entry, "criterion", where, f"{label}[{i}].criterion") for i, entry in enumerate(entries)]
        criteria, answer = [], answer_of(model, "ground_truth", where) or None
        for i, (name, text, entry) in enumerate(zip(slugs(texts), texts, entries, strict=True)):
            tags, fields = _tags(entry, where, f"{label}[{i}].tags")
            points = number_of(entry, "points", where, f"{label}[{i}].points")
            check = _check(fields, answer, where, f"{label}[{i}].tags") if fields.get("verifier") in ("rule", "math") else None
            criteria.append(Criterion(name, text, points, tags, check, where=f"{where}: {label}[{i}]"))
        extra = {key: value for key, value in row.items() if key not in _KEPT}
        return RubricRow(
            id=id_of(row, "id", where, default_id),
            messages=messages_of(row, "prompt", where),
            rubric=Rubric(tuple(criteria), extra, where),
            answer=answer,
            extra=extra,
        )

    def mean(self, scores: Sequence[float]) -> float | None:
        """Mean over the responses, clipped to [0, 1]."""
        return clipped_mean(scores)


def _tags(entry: Mapping[str, Any], where: str, label: str) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    tags = entry.get("tags")
    if isinstance(tags, Mapping):
        return tuple(f"{key}:{value}" for key, value in tags.items() if isinstance(value, (str, int, float))), tags
    listed = tags_of(entry, "tags", where, label)
    pairs = (tag.partition(":") for tag in listed)
    return listed, {key: value for key, _, value in pairs}


def _check(fields: Mapping[str, Any], answer: str | None, where: str, label: str) -> dict[str, Any]:
    function, given = fields.get("function"), fields.get("parameters")
    if fields["verifier"] == "math":
        function, given = function or "math_verify", answer if given is None else given
    parameters = given if isinstance(given, Mapping) else {"answer": given}
    if function == "math_verify":
        if not isinstance(parameters.get("answer"), (str, int, float)):
            raise RubricError(where, label, "with `parameters`: the answer", given)
        return {"kind": "answer", "expected": str(parameters["answer"])}
    if function == "word_count_range":
        bounds = [parameters.get(key) for key in ("min_count", "max_count")]
        if not all(str(bound).isdecimal() for bound in bounds):
            raise RubricError(where, label, "with `parameters`: whole numbers `min_count` and `max_count`", given)
        return {"kind": "words_between", "min": int(str(bounds[0])), "max": int(str(bounds[1]))}
    raise RubricError(where, label, "with `function` math_verify or word_count_range", function)
