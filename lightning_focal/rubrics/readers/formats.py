"""The formats: one function each, recognised by the fields of a row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.criterion import Criterion, Rubric, RubricError
from lightning_focal.rubrics.readers.base import RubricRow, rubric_format, weighted_mean
from lightning_focal.rubrics.readers.fields import (
    Row,
    answer_of,
    entries_of,
    has_entries,
    id_of,
    messages_of,
    number_of,
    slugs,
    tags_of,
    text_of,
    without_none,
)

__all__ = ["CATEGORY_POINTS", "category_of"]

_CLIPPED_TERMS = "sum of met points / sum of positive points; only the mean over a data set is clipped to 0..1"


def _row(
    row: Row,
    where: str,
    default_id: str,
    criteria: Iterable[Criterion],
    id: str,
    prompt: str,
    *used: str,
    answer: str | None = None,
) -> RubricRow:
    """Make a row of its criteria and the names of its fields; those that are not ``used`` are its extra columns."""
    extra = {key: value for key, value in row.items() if key not in (id, prompt, *used)}
    rubric = Rubric(tuple(criteria), extra, where)
    return RubricRow(id_of(row, id, where, default_id), messages_of(row, prompt, where), rubric, answer, extra)


def _listed(
    row: Row,
    where: str,
    default_id: str,
    id: str,
    prompt: str = "prompt",
    points: str = "points",
    tags: Callable[[Row, str, str], tuple[str, ...]] = lambda entry, where, path: (),
) -> RubricRow:
    """Read ``rubrics: [{"criterion", points, ...}]``: a criterion is named by the first words of its text (ours)."""
    entries = entries_of(row, "rubrics", where)
    texts = [text_of(entry, "criterion", where, f"rubrics[{i}]") for i, entry in enumerate(entries)]
    criteria = []
    for i, (name, text, entry) in enumerate(zip(slugs(texts), texts, entries, strict=True)):
        path = f"rubrics[{i}]"
        own = tags(entry, where, path)
        criteria.append(Criterion(name, text, number_of(entry, points, where, path), own, where=f"{where}: {path}"))
    return _row(row, where, default_id, criteria, id, prompt, "rubrics")


@rubric_format(
    "healthbench",
    "prompt_id, prompt, rubrics (criterion, points, tags)",
    lambda row: {"prompt_id", "prompt", "rubrics"} <= row.keys(),
    terms=_CLIPPED_TERMS,
    clipped=True,
)
def _healthbench(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"prompt_id", "prompt": [{role, content}], "rubrics": [{"criterion", "points", "tags"}], "example_tags"}``.

    A chat and criteria written by physicians, ``arXiv:2505.08775``.
    """
    tags_of(row, "example_tags", where)
    return _listed(row, where, default_id, "prompt_id", tags=_own_tags)


def _own_tags(entry: Row, where: str, path: str) -> tuple[str, ...]:
    return tags_of(entry, "tags", where, path)


def _share(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    judged = [m for m in met if m is not None]
    return sum(judged) / len(judged) if judged else None


@rubric_format(
    "ifeval",
    "key, prompt, instruction_id_list, kwargs",
    lambda row: {"prompt", "instruction_id_list"} <= row.keys(),
    score=_share,
    terms="share of instructions met",
)
def _ifeval(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"key", "prompt", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{...}]}``, ``arXiv:2311.07911``.

    Each instruction becomes a criterion of one point with the check ``ifeval``; null keyword arguments are dropped. The group
    of the instruction (``punctuation``) becomes the tag ``axis:...``.
    """
    ids = row.get("instruction_id_list")
    if not isinstance(ids, list) or not ids or not all(isinstance(name, str) and name for name in ids):
        raise RubricError(where, "instruction_id_list", "a non-empty list of strings", ids)
    kwargs = row.get("kwargs") or [{}] * len(ids)
    if not isinstance(kwargs, list) or len(kwargs) != len(ids):
        raise RubricError(where, "kwargs", f"a list of one mapping per instruction ({len(ids)})", kwargs)
    criteria = []
    for i, (instruction, arguments) in enumerate(zip(ids, kwargs, strict=True)):
        if arguments is not None and not isinstance(arguments, Mapping):
            raise RubricError(where, f"kwargs[{i}]", "a mapping", arguments)
        given = without_none(arguments or {})
        shown = ", ".join(f"{key} = {value}" for key, value in given.items())
        count = ids[:i].count(instruction)
        criteria.append(
            Criterion(
                name=f"{instruction}-{count + 1}" if count else instruction,
                description=f"Follows the instruction {instruction}{f' ({shown})' if shown else ''}.",
                tags=(f"axis:{instruction.partition(':')[0]}",),
                check={"kind": "ifeval", "instruction": instruction, "arguments": given},
                where=f"{where}: instruction_id_list[{i}]",
            )
        )
    return _row(row, where, default_id, criteria, "key", "prompt", "instruction_id_list", "kwargs")


_ENTRY_FIELDS = ("name", "description", "points", "tags", "check", "required", "low", "high")


@rubric_format(
    "plain",
    "prompt or messages, rubric (name, description, points, check), id, answer",
    lambda row: "rubric" in row and ("prompt" in row or "messages" in row),
)
def _plain(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"prompt" or "messages", "rubric": [{"name", "description", "points", "check", ...}], "id", "answer"}`` (ours).

    Only a prompt and the rubric are needed; of a criterion, a description or a check. A missing name is made of the first
    words of the description, a missing description is the name. The check argument ``"$answer"`` is the row's answer, and the
    tag ``verifier:math`` stands for the check ``answer`` with it.
    """
    if ("prompt" in row) == ("messages" in row):
        raise RubricError(where, "prompt", "given, or `messages`, but not both", sorted(row))
    answer = answer_of(row, "answer", where)
    entries = [without_none(entry) for entry in entries_of(row, "rubric", where)]
    names = slugs(str(entry.get("description") or _kind_of(entry)) for entry in entries)
    pairs = enumerate(zip(entries, names, strict=True))
    criteria = [_plain_criterion(entry, name, answer, where, f"rubric[{i}]") for i, (entry, name) in pairs]
    prompt = "prompt" if "prompt" in row else "messages"
    return _row(row, where, default_id, criteria, "id", prompt, "rubric", "answer", answer=answer)


def _kind_of(entry: Row) -> object:
    check = entry.get("check")
    return check.get("kind", "") if isinstance(check, Mapping) else check or ""


def _plain_criterion(entry: Row, name: str, answer: str | None, where: str, path: str) -> Criterion:
    for key in entry:
        if key not in _ENTRY_FIELDS:
            close = difflib.get_close_matches(str(key), _ENTRY_FIELDS, n=1)
            hint = f" (did you mean `{close[0]}`?)" if close else ""
            raise RubricError(where, f"{path}.{key}", f"one of {', '.join(_ENTRY_FIELDS)}{hint}", key)

    def fill(value: Any, field: str) -> Any:
        if value == "$answer" and answer is None:
            raise RubricError(where, f"{path}.{field}", "used in a row with an `answer`", value)
        return answer if value == "$answer" else value

    if "name" in entry:
        name = text_of(entry, "name", where, path)
    described = "check" not in entry or "description" in entry
    description = text_of(entry, "description", where, path) if described else name
    tags, check = tags_of(entry, "tags", where, path), entry.get("check")
    if isinstance(check, str):
        check = {"kind": check}
    elif isinstance(check, Mapping) and isinstance(check.get("kind"), str):
        check = {key: fill(value, f"check.{key}") for key, value in check.items()}
    elif check is not None:
        raise RubricError(where, f"{path}.check", "the name of a kind, or a mapping with a string `kind`", check)
    elif "verifier:math" in tags:
        check = {"kind": "answer", "expected": fill("$answer", "tags")}
    required = entry.get("required", False)
    if not isinstance(required, bool):
        raise RubricError(where, f"{path}.required", "true or false", required)
    numbers = {key: number_of(entry, key, where, path) for key in ("points", "low", "high") if key in entry}
    return Criterion(name, description, tags=tags, check=check, required=required, where=f"{where}: {path}", **numbers)


CATEGORY_POINTS = {"essential": 1.0, "important": 0.7, "optional": 0.3, "pitfall": 0.9}
"""Points of a criterion of RaR that has no weight of its own, by category."""


def category_of(text: str) -> str | None:
    """Return the category that stands in front of a criterion's text in RaR, spelling mistakes forgiven.

    >>> category_of("Essental Criteria: Names the nerve."), category_of("Names the nerve.")
    ('essential', None)
    """
    prefix, colon, _ = text.partition(":")
    words = prefix.split()
    if not colon or not words or len(words) > 3:
        return None
    close = difflib.get_close_matches(words[0].lower(), CATEGORY_POINTS, n=1, cutoff=0.75)
    return close[0] if close else None


@rubric_format(
    "rar",
    "question, reference_answer, rubric (title, description, weight)",
    lambda row: "question" in row and has_entries(row, "rubric", "title", "description"),
    score=weighted_mean,
    terms="sum of weight times met / sum of weights",
)
def _rar(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"question", "reference_answer", "rubric": [{"title", "description", "weight"}]}``, ``arXiv:2507.17746``.

    Points are the row's own weights, negative ones included; a criterion without a weight has those of its category. The
    category becomes the tag ``category:...``.
    """
    entries = [without_none(entry) for entry in entries_of(row, "rubric", where)]
    names = slugs(text_of(entry, "title", where, f"rubric[{i}]") for i, entry in enumerate(entries))
    criteria = []
    for i, (entry, name) in enumerate(zip(entries, names, strict=True)):
        path = f"rubric[{i}]"
        text = text_of(entry, "description", where, path)
        category = category_of(text)
        if "weight" not in entry and category is not None:
            entry = {"weight": CATEGORY_POINTS[category]}
        tags = () if category is None else (f"category:{category}",)
        criteria.append(Criterion(name, text, number_of(entry, "weight", where, path), tags, where=f"{where}: {path}"))
    answer = answer_of(row, "reference_answer", where)
    return _row(row, where, default_id, criteria, "id", "question", "reference_answer", "rubric", answer=answer)


@rubric_format(
    "researchrubrics",
    "prompt, sample_id, rubrics (criterion, axis, weight)",
    lambda row: "prompt" in row and has_entries(row, "rubrics", "criterion", "axis", "weight"),
    terms="sum of weight times grade (0, 0.5, 1) / sum of positive weights",
)
def _researchrubrics(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"prompt", "sample_id", "rubrics": [{"criterion", "axis", "weight"}]}``, ``arXiv:2511.07685``.

    The axis becomes the tag ``axis:...``. A judge grades 0, 0.5 or 1.
    """
    return _listed(row, where, default_id, "sample_id", points="weight", tags=_axis)


def _axis(entry: Row, where: str, path: str) -> tuple[str, ...]:
    return (f"axis:{text_of(entry, 'axis', where, path)}",)


_REQUIREMENT = re.compile(r"\s*(?:\d+[).]|[*•-])?\s*(?P<text>.*\S)\s*\(importance:\s*(?P<weight>\d+(?:\.\d+)?)\s*/\s*100\)\s*")
_REQUIREMENTS = "lines like '1) ... (importance: 90/100)', or a list of [text, weight from 0 to 100]"


def _clipped_weighted_mean(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    mean = weighted_mean(rubric, met)
    return None if mean is None else min(1.0, max(0.0, mean))


@rubric_format(
    "rlcf",
    "prompt, requirements (text, importance out of 100)",
    lambda row: {"prompt", "requirements"} <= row.keys(),
    score=_clipped_weighted_mean,
    terms="sum of weight times grade / sum of weights, clipped to 0..1",
)
def _rlcf(row: Row, where: str, default_id: str) -> RubricRow:
    r"""``{"prompt", "requirements": "1) ... (importance: 100/100)\n2) ..."}`` or ``[[text, weight 0-100], ...]``.

    ``arXiv:2507.18624``. A judge grades each requirement from 0 to 100.
    """
    given = row.get("requirements")
    lines = [line for line in given.split("\n") if line.strip()] if isinstance(given, str) else given
    if not isinstance(lines, list) or not lines:
        raise RubricError(where, "requirements", _REQUIREMENTS, given)
    items: list[tuple[str, float]] = []
    for i, line in enumerate(lines):
        found = _REQUIREMENT.fullmatch(line) if isinstance(given, str) else None
        if found is not None:
            text, weight = found["text"], float(found["weight"])
        elif isinstance(line, (list, tuple)) and len(line) == 2 and isinstance(line[0], str) and line[0].strip():
            text, weight = line[0], number_of({f"requirements[{i}][1]": line[1]}, f"requirements[{i}][1]", where)
        else:
            raise RubricError(where, f"requirements[{i}]", _REQUIREMENTS, line)
        if not 0 <= weight <= 100:
            raise RubricError(where, f"requirements[{i}]", "weighted from 0 to 100", weight)
        items.append((text, weight))
    pairs = enumerate(zip(slugs(text for text, _ in items), items, strict=True))
    criteria = [Criterion(name, *item, low=0, high=100, where=f"{where}: requirements[{i}]") for i, (name, item) in pairs]
    return _row(row, where, default_id, criteria, "id", "prompt", "requirements")


@rubric_format(
    "rubrichub",
    "question, id, rubrics (criterion, points)",
    lambda row: "question" in row and has_entries(row, "rubrics", "criterion", "points"),
    terms="points earned / points possible",
)
def _rubrichub(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"question", "id", "rubrics": [{"criterion", "points"}]}``."""
    return _listed(row, where, default_id, "id", prompt="question")


@rubric_format(
    "ruscarl",
    "prompt, reward_model (rubrics (criterion, points, tags)), data_source, extra_info",
    lambda row: "prompt" in row and isinstance(row.get("reward_model"), Mapping) and "rubrics" in row["reward_model"],
    terms=_CLIPPED_TERMS,
    clipped=True,
)
def _ruscarl(row: Row, where: str, default_id: str) -> RubricRow:
    """``{"prompt", "reward_model": {"style": "rubric", "rubrics": [{"criterion", "points", "tags"}]}, "data_source", ...}``.

    Rows of verl, ``arXiv:2508.16949``. Tags are a list (``["verifier:rule", "function:math_verify", "parameters:42"]``) or a mapping
    of the same. An item with ``verifier`` ``rule`` becomes a check: ``math_verify`` the check ``answer``, ``word_count_range`` the
    check ``words_between``; so does one with ``verifier`` ``math`` (ours), whose function is ``math_verify`` and whose answer is the
    row's by default.
    """
    model = row.get("reward_model")
    if not isinstance(model, Mapping):
        raise RubricError(where, "reward_model", "a mapping with `rubrics`", model)
    answer = answer_of(model, "ground_truth", where) or None
    entries = [without_none(entry) for entry in entries_of(model, "rubrics", f"{where}: reward_model")]
    paths = [f"reward_model.rubrics[{i}]" for i in range(len(entries))]
    texts = [text_of(entry, "criterion", where, path) for path, entry in zip(paths, entries, strict=True)]
    criteria = []
    for path, name, text, entry in zip(paths, slugs(texts), texts, entries, strict=True):
        fields = entry.get("tags")
        if isinstance(fields, Mapping):
            tags = tuple(f"{key}:{value}" for key, value in fields.items() if isinstance(value, (str, int, float)))
        else:
            tags = tags_of(entry, "tags", where, path)
            fields = {key: value for key, _, value in (tag.partition(":") for tag in tags)}
        points, check = number_of(entry, "points", where, path), _verl_check(fields, answer, where, f"{path}.tags")
        criteria.append(Criterion(name, text, points, tags, check, where=f"{where}: {path}"))
    return _row(row, where, default_id, criteria, "id", "prompt", "reward_model", answer=answer)


def _verl_check(fields: Row, answer: str | None, where: str, label: str) -> dict[str, Any] | None:
    verifier, function, given = (fields.get(name) for name in ("verifier", "function", "parameters"))
    if verifier not in ("rule", "math"):
        return None
    if verifier == "math":
        function, given = function or "math_verify", answer if given is None else given
    parameters = given if isinstance(given, Mapping) else {"answer": given}
    if function == "math_verify":
        if not isinstance(parameters.get("answer"), (str, int, float)):
            raise RubricError(where, label, "with `parameters`: the answer", given)
        return {"kind": "answer", "expected": str(parameters["answer"])}
    if function == "word_count_range":
        bounds = [str(parameters.get(key)) for key in ("min_count", "max_count")]
        if not all(map(str.isdecimal, bounds)):
            raise RubricError(where, label, "with `parameters`: whole numbers `min_count` and `max_count`", given)
        return {"kind": "words_between", "min": int(bounds[0]), "max": int(bounds[1])}
    raise RubricError(where, label, "with `function` math_verify or word_count_range", function)
