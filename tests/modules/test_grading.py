"""What held-out responses are worth."""

import pytest
import torch

from lightning_focal.modules.grading import add_grades, first_questions
from lightning_focal.modules.measures import Means
from lightning_focal.types import Prompts
from tests.helpers import make_prompts, make_rollouts


def is_four(answer):
    return {"4": 1.0, "four": 0.5}.get(answer, 0.0)


def boxed(*answers):
    return tuple(f"\\boxed{{{answer}}}" if answer else "none" for answer in answers)


def grades(prompts, texts, failed=None, **kwargs):
    means = Means()
    said = add_grades(means, make_rollouts(prompts, len(texts[0]), texts=tuple(texts), **kwargs))
    if failed is not None:
        failed += said
    return means.compute()


def test_by_hand():
    prompts = make_prompts(3, graders=(is_four,) * 3, views=(0, 0, 1), questions=("a", "b", "a"))
    texts = [boxed("4", "4", "5"), boxed("four", "4", None), boxed("5", "5", "4")]
    truncated = torch.tensor([[False, False, False], [False, False, True], [False, False, False]])
    found = grades(prompts, texts, truncated=truncated)
    assert found["val/accuracy/original"] == pytest.approx(3 / 6)  # half marks are not enough
    assert found["val/accuracy/rephrased"] == pytest.approx(1 / 3)
    assert found["val/majority/original"] == pytest.approx(1 / 2)  # 4 wins; a tie goes to "four", seen first
    assert found["val/majority/rephrased"] == 0
    assert found["val/response/boxed"] == pytest.approx(8 / 9)
    assert found["val/response/truncated"] == pytest.approx(1 / 9)
    assert found["val/response/length"] == 3


def test_without_graders_and_views():
    found = grades(make_prompts(1), [boxed("4", None)])
    assert found["val/response/boxed"] == 0.5
    assert found["val/accuracy/original"] != found["val/accuracy/original"]  # not known
    assert found.keys() == grades(make_prompts(1, graders=(is_four,)), [boxed("4")]).keys()  # every process adds the same names
    found = grades(make_prompts(2, graders=(None, is_four)), [boxed("4", "4"), boxed("4", None)])
    assert found["val/accuracy/original"] == 0.5


def test_a_grader_that_fails_is_left_out_never_counted_as_wrong():
    def grader(answer):
        if answer == "odd":
            raise OverflowError("too large")
        return {"nan": float("nan"), "9": 9.0}.get(answer, float(answer == "4"))

    failed = []
    grades(make_prompts(1, graders=(grader,)), [boxed("4", None)], failed)
    assert failed == []
    prompts = make_prompts(3, graders=(grader,) * 3)
    texts = [boxed("4", "odd", "5", "5"), boxed("odd", "odd", "nan", "9"), boxed("4", "4", "5", None)]
    found = grades(prompts, texts, failed)
    assert found["val/accuracy/original"] == pytest.approx(3 / 7)  # 4, 5, 5 of the first, all four of the last
    assert found["val/majority/original"] == pytest.approx(1 / 2)  # 5 and 4; "odd" is left out
    assert failed == [
        "prompt 'p0', answer odd: the grader failed (OverflowError: too large)",
        "prompt 'p1', answer odd: the grader failed (OverflowError: too large)",
        "prompt 'p1', answer nan: the grader must return a number in [0, 1], got nan",
        "prompt 'p1', answer 9: the grader must return a number in [0, 1], got 9.0",
    ]


def test_votes_are_for_answers_not_for_spellings():
    prompts = make_prompts(1, graders=(lambda answer: float(answer in ("1/2", "0.5")),))
    found = grades(prompts, [boxed("3", "1/2", "3", "0.5", r"\frac{1}{2}")])  # a half has three votes, 3 has two
    assert found["val/majority/original"] == 1


def test_first_questions():
    prompts = Prompts(
        ids=("a", "b", "c", "a/2", "b/2", "c/2"),
        messages=((),) * 6,
        answers=tuple("123123"),
        questions=tuple("abcabc"),
        views=(0, 0, 0, 1, 1, 1),
    )
    chosen = first_questions(prompts, 2)
    assert (chosen.ids, chosen.answers, chosen.views) == (("a", "b", "a/2", "b/2"), tuple("1212"), (0, 0, 1, 1))
    assert first_questions(prompts, 10) == prompts
    assert first_questions(make_prompts(3), 2).ids == ("p0", "p1")
    assert len(first_questions(prompts, 0)) == 0
