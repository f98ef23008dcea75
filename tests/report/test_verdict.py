"""The two sentences on top of a report."""

from pathlib import Path

import pytest

from lightning_focal.report.run import Run, read_run
from lightning_focal.report.verdict import verdict
from tests.report.made_run import make_run
from tests.report.test_held_out import keyed, method, run


def twelve(*scores, **more):
    """A run with twelve held-out prompts."""
    return run(*(dict.fromkeys(range(12), score) for score in scores), **more)


def test_it_names_what_rose_what_fell_and_what_is_open(tmp_path):
    folder = make_run(tmp_path, batches=4, held_out=60, group=8, say=lambda *_: "text")
    first, second, third, fourth = verdict([method("FocalReward", read_run(folder, rollouts=10_000))])
    assert first.startswith("The held-out score went from 0.")
    assert " over 4 batches of training, a change of +0." in first
    assert first.endswith("over 60 prompts: that is an improvement, because the whole interval is above 0.")
    assert second.startswith("Of 7 criteria ")
    assert " improved (" in second
    assert third.startswith("The worst criterion is brevity: 0.")
    assert fourth == "Responses have 8 tokens on average, 8 before training."


def test_it_says_what_the_held_out_judge_says(tmp_path, stored):
    folder = make_run(tmp_path / "a", batches=4, held_out=12, second=lambda batch, score: 0.5 - batch / 10)
    said = verdict([method("m", read_run(folder))])
    assert said[1] == (
        "By the held-out judge, which trains nothing, it went from 0.500 to 0.100, a change of -0.400 (95 % interval -0.400 to -0.400) "
        "over 12 prompts: that is a decline, because the whole interval is below 0."
    )
    assert not any("held-out judge" in sentence for sentence in verdict([method("m", read_run(stored))]))


def test_of_a_fall():
    first, second = verdict([method("m", twelve(0.7, 0.4, measures=keyed({"x": 0.7}, {"x": 0.4})))])
    assert first == (
        "The held-out score went from 0.700 to 0.400 over 8 batches of training, a change of -0.300 (95 % interval -0.300 to -0.300) "
        "over 12 prompts: that is a decline, because the whole interval is below 0."
    )
    assert second == "It has one criterion, x."


def test_under_ten_prompts_there_is_no_verdict():
    for count, words in (
        (9, "there is no verdict, because fewer than 10 held-out prompts were scored"),
        (10, "that is an improvement"),
    ):
        first, _ = verdict([method("m", run(*(dict.fromkeys(range(count), score) for score in (0.2, 0.4))))])
        assert words in first
    _, _, apart, _ = verdict([method(name, run(0.2, 0.4)) for name in ("FocalReward", "StaticReward")])
    assert apart.endswith("the interval is over fewer than 10 prompts a run, so there is no verdict.")


def test_no_negative_zero():
    said = " ".join(verdict([method("m", twelve(0.5, 0.4999)), method("n", twelve(0.5, 0.49999))]))
    assert "+0.000" in said
    assert "-0.000" not in said


def test_without_rollouts_there_is_no_interval():
    measures = keyed({"x": 0.5, "y": 0.2, "z": 0.25}, {"x": 0.25, "y": 0.1, "z": 0.25})
    _, second, third = verdict([method("m", run(0.7, 0.4, measures=measures))])
    assert second == (
        "Of 3 criteria none went up and 2 went down (x -0.25, y -0.10) on held-out prompts; "
        "they have no interval without rollouts or a second seed."
    )
    assert third == "The worst criterion is y: 0.20 before and 0.10 after training."


def test_of_what_may_be_chance():
    first, _ = verdict([method("m", run(dict.fromkeys(range(12), 0.5), {i: float(i % 2) for i in range(12)}))])
    assert first.endswith("that is no clear change, because the interval includes 0.")


@pytest.mark.parametrize(("evaluations", "words"), [
    ((), "There were no held-out prompts, so nothing can be said about prompts that were not trained on; in training"),
    ((0,), "The run has one evaluation of its held-out prompts alone, so there is no before and after; in training"),
])  # fmt: skip
def test_without_two_evaluations(tmp_path, evaluations, words):
    first, second = verdict([method("m", read_run(make_run(tmp_path, batches=2, evaluations=evaluations)))])
    assert first.startswith(words)
    assert "without an interval" in first
    assert second.startswith("Of 7 criteria ")


def test_of_methods():
    def seeds(label, *afters):
        worst = ({}, {"val/balance/worst": 0.1})
        return method(label, *(twelve(0.2, after, measures=worst) for after in afters))

    focal = seeds("FocalReward", 0.5, 0.51, 0.49)
    first, second, third, last = verdict([focal, seeds("StaticReward", 0.3, 0.1, 0.5)])
    assert first == (
        "Under FocalReward the held-out score went from 0.200 to 0.500, a change of +0.300 (95 % interval +0.275 to +0.325) over 3 seeds: "
        "that is an improvement, because the whole interval is above 0."
    )
    assert second == (
        "Under StaticReward the held-out score went from 0.200 to 0.300, a change of +0.100 (95 % interval -0.397 to +0.597) over 3 seeds: "
        "that is no clear change, because the interval includes 0."
    )
    assert third.endswith("paired by 3 seeds): the interval includes 0, so there is no clear difference.")
    assert last == "The worst criterion ended at 0.10 under FocalReward and at 0.10 under StaticReward."
    _, _, third, _ = verdict([focal, seeds("StaticReward", 0.3, 0.31, 0.29)])
    more = (
        "FocalReward changed the score by +0.200 compared with StaticReward (95 % interval +0.200 to +0.200, paired by 3 seeds)"
    )
    assert third == f"{more}: the interval excludes 0."


def test_of_many_methods():
    said = verdict([method(f"m{i}", twelve(0.2, 0.3 + i / 100)) for i in range(6)])
    assert [sentence.split()[1] for sentence in said[:4]] == ["m5", "m4", "m3", "m0"]
    assert said[4] == "These are the best 3 and the last of 6 methods."


def test_of_methods_without_evaluations():
    first, second = verdict([method("a", Run(Path("a"))), method("b", Run(Path("b")))])
    assert first.startswith("No run has held-out prompts before and after training")
    assert second == "There are no two methods to compare."


def test_they_are_sentences(tmp_path, stored):
    runs = [read_run(folder, rollouts=100) for folder in (stored, make_run(tmp_path, batches=3, seed=1))]
    for methods in ([method("m", *runs)], [method("m", runs[0]), method("n", runs[1])]):
        assert all(sentence.endswith(".") and ". " not in sentence for sentence in verdict(methods))
