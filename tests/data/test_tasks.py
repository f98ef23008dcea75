"""Questions drawn from a task, and their scorer."""

import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightning_focal.data import tasks
from lightning_focal.data.tasks import TaskGrader, draw_questions, make_task, split_of
from lightning_focal.rewards import GoldAnswers
from tests.helpers import make_prompts, make_rollouts

pytest.importorskip("reasoning_gym")
TWO = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}


def questions(seed=0, split="train", count=50, task="chain_sum", args=TWO):
    return [entry["question"] for entry in draw_questions(task, args, seed, split, count)]


def test_no_text_twice_and_none_in_two_splits_or_seeds():
    """The package draws question i of seed s from s + i: seeds 0 and 1 would be one list, shifted."""
    digits = {"min_digits": 4, "max_digits": 4}
    assert not {*questions(0, args=digits)} & {*questions(1, args=digits)}
    drawn = {(seed, split): questions(seed, split, 15) for seed in (0, 1) for split in ("train", "val", "test")}
    for texts in drawn.values():
        assert len(set(texts)) == 15
    of = {split: {t for (_, s), texts in drawn.items() if s == split for t in texts} for split in ("train", "val", "test")}
    assert not of["train"] & of["val"]
    assert not of["train"] & of["test"]
    assert not of["val"] & of["test"]


def test_one_question_in_eight_is_held_out_for_each_purpose():
    share = [split_of(f"{a} + {b} =") for a in range(100) for b in range(100)]
    assert share.count("val") / 10_000 == pytest.approx(1 / 8, abs=0.01)
    assert share.count("test") / 10_000 == pytest.approx(1 / 8, abs=0.01)


@pytest.mark.parametrize("task", ["chain_sum", "pool_matrix", "list_functions"])
def test_global_random_state_neither_matters_nor_changes(task):
    """The second family seeds NumPy itself, the third may draw from Python's global generator."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first = questions(task=task, args={}, count=20)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states  # noqa: NPY002
    random.seed(2), np.random.seed(2)  # noqa: NPY002
    assert questions(task=task, args={}, count=20) == first


@pytest.mark.slow  # two processes, which load tasks.py by itself
def test_another_process_draws_the_same():
    code = (
        "import importlib.util as u, json, sys; s = u.spec_from_file_location('tasks', sys.argv[1]); m = u.module_from_spec(s); "
        "sys.modules['tasks'] = m; s.loader.exec_module(m); "
        "print(json.dumps([e['question'] for t in ('gsm_symbolic', 'word_ladder') for e in m.draw_questions(t, {}, 3, 'train', 5)]))"
    )
    command, environment = [sys.executable, "-c", code, tasks.__file__], {**os.environ, "PYTHONHASHSEED": "0"}
    said, again = (subprocess.check_output(command, text=True, env=environment) for _ in range(2))
    assert json.loads(said) == json.loads(again)
    assert json.loads(said)[:5] == questions(3, count=5, task="gsm_symbolic", args={})


def test_a_family_that_follows_the_hash_seed_asks_for_a_fixed_one(monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(ValueError, match=r"questions of 'word_ladder' change with the hash seed .* PYTHONHASHSEED=0"):
        draw_questions("word_ladder", {}, 0, "train", 1)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(draw_questions("word_ladder", {}, 0, "train", 1)) == 1


def test_a_family_that_is_used_up_stops():
    one_digit = {**TWO, "max_digits": 1}
    with pytest.raises(ValueError, match=r"`data.val`: 100 distinct questions wanted, but chain_sum with .* gave only \d\d for"):
        draw_questions("chain_sum", one_digit, 0, "val", 100)
    assert draw_questions("chain_sum", one_digit, 0, "val", 0) == []


@pytest.mark.parametrize(("args", "message"), [
    ("chain_sums", r"`data.task` must be one of the \d+ task families of .*, got 'chain_sums', near are: chain_sum"),
    ("xyzzy-42", r"got 'xyzzy-42'$"),
    ({"min_term": 2}, r"chain_sum knows no 'min_term' \(did you mean min_terms\?\); it takes min_terms, max_terms"),
    ({"seed": 2}, r"chain_sum knows no 'seed'"),
    ({"min_terms": 0}, r"`data.task_args`: chain_sum says: min_terms must be positive"),
    ({"min_terms": 5, "max_terms": 2}, r"chain_sum says: max_terms must be >= min_terms"),
    ({"min_terms": "two"}, r"`data.task_args`: chain_sum says: .*not supported between"),
])  # fmt: skip
def test_wrong_names_and_arguments_are_told_in_the_tasks_words(args, message):
    with pytest.raises(ValueError, match=message):
        make_task(*((args, {}) if isinstance(args, str) else ("chain_sum", args)))


# -- the scorer ----------------------------------------------------------------------------------------------------------


def grader(task="chain_sum", **entry):
    return TaskGrader(task, {}, {"question": "?", "answer": "4", "metadata": {}, **entry})


def test_the_tasks_own_scorer_and_part_of_the_marks():
    assert [grader()(answer) for answer in ("4", "4.0", "+04", " 4 ")] == [1] * 4
    assert [grader()(answer) for answer in ("5", "", "  ", None, "four")] == [0] * 5
    assert grader()("4 apples") == pytest.approx(1 / 8)  # the task's own: length of the answer over length of what was said
    assert grader()("14") == 0.5
    strict = TaskGrader("chain_sum", {}, {"question": "?", "answer": "4", "metadata": {}}, partial_marks=False)
    assert [strict(answer) for answer in ("4.0", "14", "4 apples", None)] == [1, 0, 0, 0]


@pytest.mark.slow  # one question of each of a hundred families
def test_every_family_can_be_drawn_graded_and_sent():
    from reasoning_gym.factory import DATASETS

    os.environ.setdefault("PYTHONHASHSEED", "0")
    for task in sorted(set(DATASETS) - {"composite"}):
        entry = draw_questions(task, {}, 0, "train", 1)[0]
        copy = pickle.loads(pickle.dumps(TaskGrader(task, {}, entry)))
        try:
            score = copy("17")
        except Exception:  # a scorer may raise on what is no answer to its question
            score = 0
        assert 0 <= score <= 1, task
        if isinstance(entry["answer"], str):
            assert copy(entry["answer"]) > 0.9, task


def test_a_scorer_that_raises_is_a_failed_judgement_and_no_wrong_answer():
    """It was a 0 once: the reward then punished what nobody had judged."""
    entry = draw_questions("prime_factorization", {}, 0, "train", 1)[0]
    mine = pickle.loads(pickle.dumps(TaskGrader("prime_factorization", {}, entry)))  # graders travel
    assert mine(entry["answer"]) == 1
    with pytest.raises(ValueError, match="garbage"):
        mine("garbage")
    texts = tuple(f"\\boxed{{{answer}}}" for answer in ("garbage", entry["answer"]))
    prompts = make_prompts(1, answers=(entry["answer"],), graders=(mine,))
    scores = GoldAnswers()(make_rollouts(prompts, 2, texts=(texts,)))
    assert scores.mask.flatten().tolist() == [False, True]
    assert scores.failed.flatten().tolist() == [True, False]
    assert scores.scores[0, 1, 0] == 1
    assert "the grader failed (ValueError" in scores.reasons[0][0][0]
