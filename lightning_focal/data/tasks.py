"""Generated questions: drawn once, told apart by their text, and scored by the task they come from."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

__all__ = ["TaskGrader", "draw_questions", "make_task", "split_of"]

_DRAWN_AT_ONCE = 512
_PATIENCE = 2000
"""Draws in a row that may bring nothing new before a family counts as used up."""
_HASHED = frozenset({"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"})
"""Families that walk through Python sets of strings: their questions change with the hash seed of the process."""


def make_task(task: str, task_args: Mapping[str, Any], seed: int = 0, size: int = _DRAWN_AT_ONCE) -> Any:
    """Build a task family of the package reasoning-gym.

    Returns:
        A ``reasoning_gym`` data set: ``[i]`` gives question, answer and metadata; ``score_answer(answer, entry)`` scores.

    Raises:
        ImportError: without the package; the message names the extra.
        ValueError: for an unknown family, with near names; for arguments it does not take, in its own words.

    >>> make_task("chain_sum", {"min_terms": 2, "max_terms": 2}, seed=1)[0]["question"]
    'State the final answer to the following arithmetic problem: 4 - 1 ='
    """
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise ImportError("generated questions need reasoning-gym: pip install 'lightning-focal[reasoning]'") from error
    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=3, cutoff=0.4)
        hint = f", near are: {', '.join(near)}" if near else ""
        raise ValueError(f"`data.task` must be one of the {len(DATASETS)} task families of reasoning-gym, got {task!r}{hint}")
    known = [field.name for field in fields(DATASETS[task][1]) if field.name not in ("seed", "size")]
    for name in task_args:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"`data.task_args`: {task} knows no {name!r}{hint}; it takes {', '.join(known)}")
    try:
        return create_dataset(task, **task_args, seed=seed, size=size)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"`data.task_args`: {task} says: {error or type(error).__name__}") from error


def split_of(question: str) -> str:
    """Say which split a question belongs to: a function of its text, so no size and no seed ever mixes them.

    One in eight is for validation, one in eight for testing.

    >>> [split_of(f"1 + {n} =") for n in range(6)]
    ['test', 'val', 'train', 'train', 'train', 'train']
    """
    place = hashlib.sha256(question.encode()).digest()[0]
    return "val" if place < 32 else "test" if place < 64 else "train"


def draw_questions(task: str, task_args: Mapping[str, Any], seed: int, split: str, count: int) -> list[dict[str, Any]]:
    """Draw the first ``count`` questions of a split (:func:`split_of`), no text twice: ``question``, ``answer``, ``metadata`` of each.

    The same ``seed`` gives the same questions, whatever the global random state, which is left alone.

    Raises:
        ValueError: if the family has fewer; as :func:`make_task`; for a family whose questions depend on Python's hash seed, unless
            that is fixed.
    """
    if task in _HASHED and not os.environ.get("PYTHONHASHSEED", "").isdecimal():
        remedy = "set the environment variable PYTHONHASHSEED=0, so that a resumed run and every process see the same ones"
        raise ValueError(f"`data.task`: questions of {task!r} change with the hash seed of the Python process; {remedy}")
    import numpy as np

    found: dict[str, dict[str, Any]] = {}
    drawn = fruitless = 0
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big") >> 1  # 1 + seed 0 must not be 0 + seed 1
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 - some families draw from the global generators
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002
    try:
        while len(found) < count:
            if drawn % _DRAWN_AT_ONCE == 0:
                entries = make_task(task, task_args, start + drawn)
            entry = entries[drawn % _DRAWN_AT_ONCE]
            drawn, fruitless = drawn + 1, fruitless + 1
            if entry["question"] not in found and split_of(entry["question"]) == split:
                found[entry["question"]], fruitless = entry, 0
            if fruitless > _PATIENCE:
                raise ValueError(
                    f"`data.{split}`: {count} distinct questions wanted, but {task} with {dict(task_args)} gave only "
                    f"{len(found)} for this split in {drawn} draws: ask for fewer, or widen `data.task_args`"
                )
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
    return list(found.values())


@dataclass(frozen=True)
class TaskGrader:
    """Scores an extracted answer as the task itself does; can be pickled.

    Args:
        task: family.
        task_args: its arguments.
        entry: the question, as the family gave it.
        partial_marks: keep what some tasks give for an answer that is close; False: 1 for full marks, else 0.

    >>> entry = {"question": "1 + 1 =", "answer": "2", "metadata": {}}
    >>> grader = TaskGrader("chain_sum", {}, entry)
    >>> grader("2.0"), grader("3"), grader(None)
    (1.0, 0.0, 0.0)
    """

    task: str
    task_args: Mapping[str, Any]
    entry: Mapping[str, Any]
    partial_marks: bool = True

    def __call__(self, answer: str | None) -> float:
        """Return a score in [0, 1]: 1 is right, some tasks give part of it for an answer that is close; 0 without an answer.

        Raises:
            Exception: what the task's scorer raises. Whoever asks counts that as a failed judgement, never as a wrong answer.
        """
        if answer is None or not answer.strip():
            return 0.0
        scorer = _scorer(self.task, json.dumps(dict(self.task_args), sort_keys=True))
        score = float(scorer.score_answer(answer.strip(), dict(self.entry)))
        return min(1.0, max(0.0, score)) if self.partial_marks else float(score >= 1)


@lru_cache(maxsize=16)
def _scorer(task: str, task_args: str) -> Any:
    return make_task(task, json.loads(task_args))
