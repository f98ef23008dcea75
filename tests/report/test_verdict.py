"""The two sentences on top of a report."""

from pathlib import Path

import pytest

from lightning_focal.report.run import Run, read_run
from lightning_focal.report.verdict import verdict
from tests.report.made_run import make_run
from tests.report.test_held_out import keyed, method, run


def test_it_names_what_rose_what_fell_and_what_is_open(tmp_path):
    folder = make_run(tmp_path, batches=40, held_out=60, group=8, say=lambda *_: "text")
    first, second = verdict([method("FocalReward", read_run(folder, rollouts=10_000))])
    assert first.startswith("The held-out score rose over 40 batches, from 0.")
    assert "bootstrap over 60 prompts), an interval that excludes 0." in first
    assert second.startswith("Of 7 criteria ")
    assert " rose (" in second
    assert "the worst, brevity, went from " in second


def test_of_a_fall():
    first, second = verdict([method("m", run(0.7, 0.4, measures=keyed({"x": 0.7}, {"x": 0.4})))])
    assert "fell over 8 batches, from 0.700 to 0.400: a paired difference of -0.300 [-0.300, -0.300]" in first
    assert second == "Its single criterion, x, went down: 0.70 to 0.40, -0.300, without an interval."


def test_without_rollouts_there_is_no_interval():
    measures = keyed({"x": 0.5, "y": 0.2, "z": 0.25}, {"x": 0.25, "y": 0.1, "z": 0.25})
    _, second = verdict([method("m", run(0.7, 0.4, measures=measures))])
    assert second == (
        "Of 3 criteria none went up and 2 went down (most: x -0.25) on held-out prompts; "
        "without rollouts, or a second seed, there is no interval."
    )


def test_of_what_may_be_chance():
    first, _ = verdict([method("m", run(dict.fromkeys(range(8), 0.5), {i: float(i % 2) for i in range(8)}))])
    assert "did not change for certain" in first
    assert "includes 0" in first


@pytest.mark.parametrize(
    ("evaluations", "words"),
    [
        ((), "There were no held-out prompts, so nothing can be said about prompts that were not trained on; in training"),
        ((0,), "The run has one evaluation of its held-out prompts alone, so there is no before and after; in training"),
    ],
)
def test_without_two_evaluations(tmp_path, evaluations, words):
    first, second = verdict([method("m", read_run(make_run(tmp_path, batches=10, evaluations=evaluations)))])
    assert first.startswith(words)
    assert "without an interval" in first
    assert second.startswith("Of 7 criteria ")


def test_of_methods():
    def seeds(label, *afters):
        worst = ({}, {"val/balance/worst": 0.1})
        return method(label, *(run(0.2, after, measures=worst) for after in afters))

    focal = seeds("FocalReward", 0.5, 0.51, 0.49)
    first, second = verdict([focal, seeds("StaticReward", 0.3, 0.1, 0.5)])
    assert first == (
        "The held-out score rose under FocalReward (+0.300 [+0.275, +0.325]); it cannot be said to have moved under StaticReward "
        "(+0.100 [-0.397, +0.597]) (95 %, over 3 seeds by Student's t)."
    )
    assert second.endswith(
        "which includes 0: they cannot be told apart; the worst criterion ended at 0.10 under FocalReward and 0.10 under StaticReward."
    )
    _, second = verdict([focal, seeds("StaticReward", 0.3, 0.31, 0.29)])
    less = "the change under FocalReward minus that under StaticReward"
    assert second.startswith(f"The difference, {less}, is +0.200 [+0.200, +0.200]")
    assert "excludes 0;" in second


def test_of_many_methods():
    first, _ = verdict([method(f"m{i}", run(0.2, 0.3 + i / 100)) for i in range(6)])
    assert "rose under m5 (" in first
    assert "and m0 (+0.100 [+0.100, +0.100]) and 3 more (95 %, over 6 prompts by bootstrap)" in first


def test_of_methods_without_evaluations():
    first, second = verdict([method("a", Run(Path("a"))), method("b", Run(Path("b")))])
    assert first.startswith("No run has held-out prompts before and after training")
    assert second == "There are no two methods to compare."


@pytest.mark.parametrize("count", [1, 2])
def test_they_are_two_sentences(tmp_path, count):
    runs = [read_run(make_run(tmp_path / str(i), batches=4, seed=i), rollouts=100) for i in range(2)]
    for sentence in verdict([method("m", *runs)] if count == 1 else [method("m", runs[0]), method("n", runs[1])]):
        assert sentence.endswith(".")
        assert ". " not in sentence
