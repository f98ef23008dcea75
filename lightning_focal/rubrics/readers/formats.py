"""The formats, one table: what rows and criteria call their parts, and the little that names cannot say."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.rubrics.criterion import Rubric, RubricError
from lightning_focal.rubrics.readers.base import FORMATS, OWN, RubricFormat, share, weighted_mean
from lightning_focal.rubrics.readers.fields import (
    Own,
    Row,
    at,
    decoded,
    entries_of,
    found,
    messages_of,
    number_of,
    tags_of,
    text_of,
)
from lightning_focal.rubrics.readers.instructions import function_entries, instruction_entries
from lightning_focal.types import Message

__all__ = ["CATEGORY_POINTS", "category_of"]

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
    return _nearest_category(words[0].lower())


@functools.lru_cache
def _nearest_category(word: str) -> str | None:
    return next(iter(difflib.get_close_matches(word, CATEGORY_POINTS, n=1, cutoff=0.75)), None)


# -- what names alone cannot say --------------------------------------------------------------------------------------------


def _rar(entry: Row, answer: str | None, where: str, path: str) -> Row:
    """The category becomes a tag, and the points where there is no weight."""
    category = category_of(text_of(entry, "description", where, path))
    if category is None:
        return {}
    return {"tags": (f"category:{category}",), **({} if "weight" in entry else {"points": CATEGORY_POINTS[category]})}


def _axis(name: str) -> Any:
    """Make a tag of the text under ``name``."""
    return lambda entry, answer, where, path: {"tags": (f"axis:{text_of(entry, name, where, path)}",)}


def _prbench(entry: Row, answer: str | None, where: str, path: str) -> Row:
    """The weight stands under the name of its class; those of other classes are left-overs."""
    weight = text_of(entry, "annotations.weight_class", where, path).replace(" ", "_")
    category = at(entry, "annotations.criteria_category")
    points = number_of(entry, f"annotations.{weight}_weight", where, path)
    return {"points": points, "tags": (f"axis:{category}",) if category else ()}


def _turns(row: Row, name: str, where: str) -> tuple[Message, ...]:
    """``prompt_0``, ``response_0``, ``prompt_1``, ...: the last prompt awaits a response; each has its reference texts below."""
    messages: list[Message] = []
    last = max((int(key[7:]) for key in row if re.fullmatch(r"prompt_[0-9]+", key) and row[key]), default=0)
    last = int(number_of(row, "turns", where)) - 1 if row.get("turns") is not None else last
    if last < 0:
        raise RubricError(where, "turns", "at least 1", row["turns"])
    for i in range(last + 1):
        texts = [text for text in decoded(row.get(f"reference_texts_{i}")) or () if isinstance(text, str) and text.strip()]
        content = "\n\n".join([text_of(row, f"prompt_{i}", where), *(["Reference material:", *texts] if texts else [])])
        messages.append({"role": "user", "content": content})
        if i < last:
            messages.append({"role": "assistant", "content": text_of(row, f"response_{i}", where)})
    return tuple(messages)


def _tree(row: Row, where: str) -> list[tuple[str, Row]]:
    """List the leaves of a tree under ``rubric``, or of the one that the row itself is."""
    tree = {"tree": row} if "sub_tasks" in row else row
    return entries_of(tree, found(tree, ("tree", "rubric", "rubrics")), where)


def _one_text(row: Row, where: str) -> list[tuple[str, Row]]:
    tags = {"tags": [f"axis:{row['category']}"]} if isinstance(row.get("category"), str) else {}
    return [("rubric", Own(description=text_of(row, "rubric", where), **tags))]


def _around(row: Row, name: str, where: str) -> tuple[Message, ...]:
    """Make a chat of a prompt, the system message beside it, and the input of an instruction below it."""
    messages = messages_of(row, name, where)
    system = found(row, ("system_prompt", "system"))
    if name == "instruction" and row.get("input"):
        content = f"{messages[-1]['content']}\n\n{text_of(row, 'input', where)}"
        messages = (*messages[:-1], {**messages[-1], "content": content})
    if row.get(system) and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": text_of(row, system, where)}, *messages)
    return messages


def _tagged_chat(row: Row, name: str, where: str) -> tuple[Message, ...]:
    tags_of(row, "example_tags", where)
    return messages_of(row, name, where)


def _verl(entry: Row, answer: str | None, where: str, path: str) -> Row:
    """Tags are a list (``verifier:rule``) or a mapping of the same; an item of the verifier ``rule`` or ``math`` is a check."""
    fields = decoded(entry.get("tags"))
    if isinstance(fields, Mapping):
        tags = tuple(f"{key}:{value}" for key, value in fields.items() if isinstance(value, (str, int, float)))
    else:
        tags = tags_of(entry, "tags", where, path)
        fields = {key: value for key, _, value in (tag.partition(":") for tag in tags)}
    return {"tags": tags, "check": _verl_check(fields, answer, where, f"{path}.tags")}


def _verl_check(fields: Row, answer: str | None, where: str, label: str) -> dict[str, Any] | None:
    verifier, function, given = (fields.get(name) for name in ("verifier", "function", "parameters"))
    if verifier not in ("rule", "math"):
        return None
    if verifier == "math":
        function, given = function or "math_verify", answer if given is None else given
    parameters = decoded(given)
    parameters = parameters if isinstance(parameters, Mapping) else {"answer": given}
    if function == "math_verify":
        if not isinstance(parameters.get("answer"), (str, int, float)):
            raise RubricError(where, label, "with `parameters`: the answer", given)
        return {"kind": "answer", "expected": str(parameters["answer"])}
    if function == "word_count_range":
        bounds = [str(parameters.get(key)) for key in ("min_count", "max_count")]
        if not all(map(str.isdecimal, bounds)):
            raise RubricError(where, label, "with `parameters`: whole numbers `min_count` and `max_count`", given)
        return {"kind": "white_space_words", "min": int(bounds[0]), "max": int(bounds[1])}  # as the data set's own code counts
    raise RubricError(where, label, "with `function` math_verify or word_count_range", function)


_REQUIREMENT = re.compile(r"\s*(?:\d+[).]|[*•-])?\s*(?P<text>.*\S)\s*\(importance:\s*(?P<weight>\d+(?:\.\d+)?)\s*/\s*100\)\s*")
_REQUIREMENTS = "lines like '1) ... (importance: 90/100)', or a list of [text, weight from 0 to 100]"


def _requirements(row: Row, where: str) -> list[tuple[str, Row]]:
    r"""List ``"1) ... (importance: 100/100)\n2) ..."`` or ``[[text, weight 0-100], ...]``; a judge grades from 0 to 100."""
    given = decoded(row.get("requirements"))
    lines = [line for line in given.split("\n") if line.strip()] if isinstance(given, str) else given
    if not isinstance(lines, list) or not lines:
        raise RubricError(where, "requirements", _REQUIREMENTS, given)
    made: list[tuple[str, Row]] = []
    for i, line in enumerate(lines):
        path = f"requirements[{i}]"
        match = _REQUIREMENT.fullmatch(line) if isinstance(line, str) else None
        if match is not None:
            text, weight = match["text"], float(match["weight"])
        elif isinstance(line, (list, tuple)) and len(line) == 2 and isinstance(line[0], str) and line[0].strip():
            text, weight = line[0], number_of({f"{path}[1]": line[1]}, f"{path}[1]", where)
        else:
            raise RubricError(where, path, _REQUIREMENTS, line)
        if not 0 <= weight <= 100:
            raise RubricError(where, path, "weighted from 0 to 100", weight)
        made.append((path, Own(description=text, points=weight, low=0, high=100)))
    return made


def _clipped_weighted_mean(rubric: Rubric, met: Sequence[float | None]) -> float | None:
    mean = weighted_mean(rubric, met)
    return None if mean is None else min(1.0, max(0.0, mean))


_PROMPTS = ("prompt", "messages", "question", "instruction", "query", "conversations", "conversation", "problem", "input")
_RUBRICS = ("rubric", "rubrics", "criteria", "checklist", "score_rubric", "positive_rubrics", "negative_rubrics")
_GENERAL = {
    **OWN,
    "description": ("description", "criterion", "requirement", "criteria", "text", "question", "content", "criteria_description",
                    "criterion_description", "title"),
    "points": ("points", "weight", "importance", "max_points", "max_score"),
    "title": ("title", "label"),
}  # fmt: skip
_KNOWN = {name for names in _GENERAL.values() for name in names} | {"id", "index", "idx", "type", "axis", "category", "source"}


def _plain(entry: Row, answer: str | None, where: str, path: str) -> Row:
    """Refuse names that say nothing, give ``"$answer"`` its value; the tag ``verifier:math`` stands for the check ``answer``."""
    for key in [key for key in entry if key not in _KNOWN]:
        close = difflib.get_close_matches(str(key), OWN, n=1)
        if isinstance(entry[key], (bool, int, float)) or close or not (_KNOWN & entry.keys()) - OWN.keys():
            hint = f" (did you mean `{close[0]}`?)" if close else ""
            raise RubricError(where, f"{path}.{key}", f"one of {', '.join(OWN)}{hint}", key)

    def fill(value: Any, field: str) -> Any:
        if value == "$answer" and answer is None:
            raise RubricError(where, f"{path}.{field}", "used in a row with an `answer`", value)
        return answer if value == "$answer" else value

    tags, check = tags_of(entry, "tags", where, path), entry.get("check")
    if isinstance(check, str):
        check = {"kind": check}
    elif isinstance(check, Mapping) and isinstance(check.get("kind"), str):
        check = {key: fill(value, f"check.{key}") for key, value in check.items()}
    elif check is not None:
        raise RubricError(where, f"{path}.check", "the name of a kind, or a mapping with a string `kind`", check)
    elif "verifier:math" in tags:
        check = {"kind": "answer", "expected": fill("$answer", "tags")}
    level = next((f"{key}:{entry[key]}" for key in ("axis", "category") if isinstance(entry.get(key), str)), None)
    return {"check": check, "tags": tags if level is None else (*tags, level)}


def _plain_chat(row: Row, name: str, where: str) -> tuple[Message, ...]:
    if ("prompt" in row) == ("messages" in row) and name in ("prompt", "messages"):
        raise RubricError(where, "prompt", "given, or `messages`, but not both", sorted(row))
    return _around(row, name, where)


# -- the table --------------------------------------------------------------------------------------------------------------

_CLIPPED: dict[str, Any] = {
    "terms": "sum of met points / sum of positive points; only the mean over a data set is clipped to 0..1",
    "clipped": True,
}
_WEIGHTED = {"description": ("description",), "title": ("title",), "points": ("weight",)}
_CRITERION = {"description": ("criterion",), "points": ("points",)}
_ANYHOW = {"description": ("criterion", "description"), "points": ("points", "weight")}
_GRADED: dict[str, Any] = {"score": share, "terms": "mean grade, from 0 at the lowest to 1 at the highest"}
_INSTRUCTED: dict[str, Any] = {"score": share, "terms": "share of instructions met"}
_TALK = ("messages", "prompt", "question")
_VERL = ("reward_model.rubrics", "reward_model.rubric", "extra_info.rubrics", "extra_info.rubric", "reward_model.ground_truth")
_INFO = ("info.rubrics", "info.rubric", "info.criteria")

_TABLE = (
    # IFEval and IFBench, arXiv:2311.07911 and arXiv:2507.02833
    RubricFormat("ifeval", "key, prompt, instruction_id_list, kwargs", ("prompt", "instruction_id_list"), id=("key",),
                 rubric=("instruction_id_list", "kwargs"), entries=instruction_entries, **_INSTRUCTED),
    # allenai/IF_multi_constraints_upto5, arXiv:2507.02833
    RubricFormat("if_multi_constraints", "key, messages, ground_truth (instruction_id, kwargs), constraint",
                 ("messages|prompt", "ground_truth.instruction_id"), id=("key",), prompt=_TALK, rubric=("ground_truth",),
                 entries=instruction_entries, **_INSTRUCTED),
    # allenai/RLVR-IFeval, arXiv:2411.15124
    RubricFormat("rlvr_ifeval", "messages, ground_truth (func_name and its arguments), constraint",
                 ("messages|prompt", "ground_truth.func_name"), prompt=_TALK, rubric=("ground_truth",),
                 entries=function_entries, **_INSTRUCTED),
    # rl-research/dr-tulu-rl-data, arXiv:2511.19399
    RubricFormat("dr_tulu", "messages, ground_truth (rubrics (title, description, weight))",
                 ("messages|prompt|question", "ground_truth.rubrics"), prompt=_TALK, rubric=("ground_truth.rubrics",),
                 criterion=_WEIGHTED),
    # verl, RuscaRL, arXiv:2508.16949
    RubricFormat("ruscarl", "prompt, reward_model (rubrics (criterion, points, tags)) or extra_info with them, data_source",
                 ("prompt", "|".join(_VERL[:4]) + "|reward_model.ground_truth[].criterion"), rubric=_VERL,
                 answer="reward_model.ground_truth", criterion=_ANYHOW, points=None, adapt=_verl, **_CLIPPED),
    # the verifiers library's `info`
    RubricFormat("verifiers", "prompt or question, answer, info (rubric or rubrics)", ("prompt|question", "|".join(_INFO)),
                 prompt=("prompt", "question"), rubric=_INFO, answer="answer", criterion=_GENERAL, adapt=_plain),
    # ScaleAI/PRBench, arXiv:2511.11562
    RubricFormat("prbench", "task, turns, prompt_0, response_0, ..., rubric (title, annotations)",
                 ("prompt_0", "rubric[].annotations.weight_class"), id=("task",), prompt=("prompt_0",), rubric=("rubric",),
                 criterion={"description": ("title",), "points": ("points",)}, adapt=_prbench, chat=_turns),
    # PaperBench, arXiv:2504.01848
    RubricFormat("paperbench", "prompt, rubric: a tree of requirements, weight, sub_tasks; its leaves are the criteria",
                 ("|".join(_PROMPTS), "rubric.sub_tasks|rubrics.sub_tasks|sub_tasks"), prompt=_PROMPTS,
                 rubric=("rubric", "rubrics", "sub_tasks", "requirements"), entries=_tree,
                 score=weighted_mean, terms="sum of weight times met / sum of weights"),
    # prometheus-eval/BiGGen-Bench, arXiv:2406.05761
    RubricFormat("biggen", "id, system_prompt, input, reference_answer, score_rubric (criteria, score1_description, ...)",
                 ("input", "score_rubric.score1_description"), prompt=("input",), rubric=("score_rubric",),
                 answer="reference_answer", chat=_around, **_GRADED),
    # prometheus-eval/Feedback-Collection, arXiv:2310.08491
    RubricFormat("prometheus", "orig_instruction, orig_criteria, orig_score1_description, ..., orig_response, orig_score",
                 ("orig_instruction", "orig_criteria", "orig_score1_description"), prompt=("orig_instruction",),
                 answer="orig_reference_answer", gold=("orig_response", "orig_score"),
                 entries=lambda row, where: entries_of({"row": row}, "row", where), **_GRADED),
    # WritingBench, arXiv:2503.05244
    RubricFormat("writingbench", 'index, query, checklist (name, criteria_description, "1-2", ..., "9-10")',
                 ("query", "checklist[].low"), id=("index",), prompt=("query",), rubric=("checklist",), **_GRADED),
    # kqsong/InFoBench, arXiv:2401.03601
    RubricFormat("infobench", "id, instruction, input, decomposed_questions", ("instruction", "decomposed_questions"),
                 prompt=("instruction",), rubric=("decomposed_questions",), chat=_around, score=share,
                 terms="share of questions answered with yes"),
    # OpenRubrics, arXiv:2510.07743
    RubricFormat("openrubrics", "instruction, rubric: numbered lines that end in [Hard Rule] or [Principle]",
                 ("instruction", "rubric=text"), prompt=("instruction",), rubric=("rubric",), score=share,
                 terms="share of criteria met"),
    # HealthBench's meta-evaluation, arXiv:2505.08775
    RubricFormat("healthbench_meta", "prompt, completion, rubric (one text), binary_labels, category",
                 ("prompt", "completion", "rubric", "binary_labels"), id=("id",), rubric=("rubric",),
                 entries=_one_text, gold=("completion", "binary_labels"), **_CLIPPED),
    RubricFormat("healthbench", "prompt_id, prompt, rubrics (criterion, points, tags)", ("prompt_id", "prompt", "rubrics"),
                 id=("prompt_id",), criterion={**_CRITERION, "tags": ("tags",)}, points=None,
                 chat=_tagged_chat, **_CLIPPED),
    # RaR, arXiv:2507.17746
    RubricFormat("rar", "question, reference_answer, rubric (title, description, weight)",
                 ("question", "rubric[].title", "rubric[].description"), prompt=("question",), rubric=("rubric",),
                 answer="reference_answer", criterion=_WEIGHTED, points=None, adapt=_rar, score=weighted_mean,
                 terms="sum of weight times met / sum of weights"),
    RubricFormat("rubrichub", "question, id, rubrics (criterion, points)",
                 ("question", "rubrics[].criterion", "rubrics[].points"), prompt=("question",), criterion=_CRITERION,
                 points=None, terms="points earned / points possible"),
    # ResearchRubrics, arXiv:2511.07685
    RubricFormat("researchrubrics", "prompt, sample_id, rubrics (criterion, axis, weight)",
                 ("prompt", "rubrics[].criterion", "rubrics[].axis", "rubrics[].weight"), id=("sample_id",), points=None,
                 criterion={"description": ("criterion",), "points": ("weight",)}, adapt=_axis("axis"),
                 terms="sum of weight times grade (0, 0.5, 1) / sum of positive weights"),
    # RLCF, arXiv:2507.18624
    RubricFormat("rlcf", "prompt, requirements (text, importance out of 100)", ("prompt", "requirements"),
                 rubric=("requirements",), entries=_requirements, score=_clipped_weighted_mean,
                 terms="sum of weight times grade / sum of weights, clipped to 0..1"),
    # ours, and every file of a prompt and criteria that no other format claims
    RubricFormat("plain", "prompt or messages, rubric (name, description, points, check), id, answer",
                 ("|".join(_PROMPTS), "|".join(_RUBRICS)), prompt=_PROMPTS, rubric=_RUBRICS, answer="answer",
                 criterion=_GENERAL, adapt=_plain, chat=_plain_chat),
)  # fmt: skip
FORMATS.update({known.name: known for known in _TABLE})
