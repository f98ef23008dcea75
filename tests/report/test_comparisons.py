"""Means and intervals over seeds, and the verdict."""

import math
from pathlib import Path

import pytest

from lightning_focal.report.comparisons import (
    apart,
    balance_of_methods,
    change_figure,
    criteria_of,
    curve_over_seeds,
    over_seeds,
    score_of,
)
from lightning_focal.report.figures import Point
from lightning_focal.report.held_out import Change
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import Series
from lightning_focal.report.run import Run, read_run
from lightning_focal.report.verdict import verdict
from tests.report.made_run import make_run

T = 4.3026527  # Student, two degrees of freedom


def run(name, before, after, measures=({}, {}), batches=8):
    ends = zip((0, batches), (before, after), measures, strict=True)
    entries = tuple({"batch": b, "scores": dict(enumerate(s)), "measures": m} for b, s, m in ends)
    return Run(Path(name), evaluations=entries)


def method(label, *runs, seeds=None):
    return Method(label, tuple(runs), tuple(range(len(runs)) if seeds is None else seeds))


def even(name, before, after, **kwargs):
    return run(name, [before] * 6, [after] * 6, **kwargs)


def keyed(*levels):
    return tuple({f"val/criterion/{key}/score": value for key, value in of_end.items()} for of_end in levels)


def test_over_seeds_by_hand():
    point = over_seeds([0.1, 0.2, 0.6])
    half = T * math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2 / 3)
    assert (point.value, point.low, point.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert over_seeds([0.5]) == Point(0.5)


def test_one_run_has_an_interval_over_prompts_and_several_over_seeds():
    one = score_of(method("m", even("a", 0.2, 0.5)))
    several = score_of(method("m", even("a", 0.2, 0.5), even("b", 0.2, 0.6), even("c", 0.2, 0.7)))
    assert (one.units, several.units) == ("6 prompts", "3 seeds")
    assert several.difference.value == pytest.approx(0.4)
    assert several.difference.high - 0.4 == pytest.approx(T * 0.1 / math.sqrt(3))


def test_a_run_without_evaluations_does_not_count():
    found = score_of(method("m", even("a", 0.2, 0.5), Run(Path("b"))))
    assert found.units == "6 prompts"
    assert score_of(method("m", Run(Path("b")))) is None


def test_criteria_that_all_runs_know():
    runs = [
        even(n, 0.1, 0.2, measures=keyed({"x": 0.1, **more}, {"x": v, **more}))
        for n, v, more in (("a", 0.3, {}), ("b", 0.5, {"y": 0.1}))
    ]
    found = criteria_of(method("m", *runs))
    assert list(found) == ["x"]
    assert found["x"].difference.value == pytest.approx(0.3)


def test_methods_are_compared_seed_by_seed():
    one = method("a", even("1", 0.2, 0.5), even("2", 0.3, 0.7), seeds=(4, 5))
    other = method("b", even("3", 0.3, 0.5), even("4", 0.2, 0.4), seeds=(5, 4))
    difference, units = apart(one, other)
    assert difference.value == pytest.approx(((0.3 - 0.2) + (0.4 - 0.2)) / 2)
    assert units == "95 %, paired by 2 seeds"


def test_single_runs_are_compared_prompt_by_prompt():
    one, other = method("a", run("a", [0.1, 0.2, 0.3], [0.3, 0.4, 0.5])), method("b", run("b", [0.1, 0.2, 0.3], [0.2, 0.3, 0.4]))
    difference, units = apart(one, other)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert "3 prompts" in units
    assert "says nothing of other seeds" in units


def test_methods_without_common_seeds_are_not_compared():
    one = method("a", even("1", 0.2, 0.5), even("2", 0.2, 0.6), seeds=(0, 1))
    other = method("b", even("3", 0.2, 0.5), even("4", 0.2, 0.6), seeds=(2, 3))
    assert apart(one, other) is None


def test_curves_over_seeds():
    def series(*values):
        made = Series()
        for batch, value in enumerate(values):
            made.add(batch, value)
        return made

    three = curve_over_seeds("m", [series(0.1, 0.2), series(0.2, 0.2, 0.9), series(0.6, 0.2)], 1, 0)
    assert list(three.x) == [0, 1]
    assert three.y == pytest.approx([0.3, 0.2])
    assert (three.low[1], three.high[1]) == pytest.approx((0.2, 0.2))
    two = curve_over_seeds("m", [series(0.1), series(0.3)], 1, 0)
    assert (two.y[0], two.low[0], two.high[0]) == pytest.approx((0.2, 0.1, 0.3))  # their range
    assert curve_over_seeds("m", [series(0.1)], 1, 0).low == ()


def test_many_criteria_show_those_that_moved_most():
    changes = {f"c{i}": Change(Point(0.5), Point(0.5), Point(i / 100)) for i in range(40)}
    assert change_figure(changes, "score", most=3).rows == ("c37", "c38", "c39")


def test_balance_of_single_criteria_is_not_drawn(tmp_path):
    one = read_run(make_run(tmp_path / "one", batches=2, criteria=[("a", ())]))
    nine = read_run(make_run(tmp_path / "nine", batches=2))
    assert balance_of_methods([method("m", one)]).panels == ()
    assert balance_of_methods([method("m", nine)]).panels[0].title == "worst criterion"


# -- the verdict -----------------------------------------------------------------------------------------------------------------


def test_verdict_names_what_rose_what_fell_and_what_is_open(tmp_path):
    def say(*of_rollout):
        return lambda stage, batch, p, g: "text"

    folder = make_run(tmp_path, batches=40, held_out=60, group=8, say=say())
    first, second = verdict([method("FocalReward", read_run(folder, rollouts=10_000))])
    assert first.startswith("The held-out score rose over 40 batches, from 0.")
    assert "bootstrap over 60 prompts), an interval that excludes 0." in first
    assert second.startswith("Of 7 criteria ")
    assert " rose (" in second
    assert "the worst, brevity, went from " in second


def test_verdict_of_a_fall():
    first, second = verdict([method("m", even("a", 0.7, 0.4, measures=keyed({"x": 0.7}, {"x": 0.4})))])
    assert "fell over 8 batches, from 0.700 to 0.400: a paired difference of -0.300 [-0.300, -0.300]" in first
    assert second == "Its single criterion, x, went down: 0.70 to 0.40, -0.300, without an interval."


def test_verdict_without_rollouts_has_no_interval():
    measures = keyed({"x": 0.5, "y": 0.2, "z": 0.25}, {"x": 0.25, "y": 0.1, "z": 0.25})
    _, second = verdict([method("m", even("a", 0.7, 0.4, measures=measures))])
    assert second == (
        "Of 3 criteria none went up and 2 went down (most: x -0.25) on held-out prompts; "
        "without rollouts, or a second seed, there is no interval."
    )


def test_verdict_of_what_may_be_chance():
    first, _ = verdict([method("m", run("a", [0.5] * 8, [0.0, 1.0] * 4))])
    assert "did not change for certain" in first
    assert "includes 0" in first


def test_verdict_without_held_out_prompts(tmp_path):
    first, second = verdict([method("m", read_run(make_run(tmp_path, batches=10, evaluations=())))])
    assert first.startswith("There were no held-out prompts, so nothing can be said about prompts that were not trained on")
    assert "without an interval" in first
    assert second.startswith("Of 7 criteria ")


def test_verdict_of_a_run_cut_off(tmp_path):
    first, _ = verdict([method("m", read_run(make_run(tmp_path, batches=3, evaluations=(0,))))])
    assert first.startswith(
        "The run has one evaluation of its held-out prompts alone, so there is no before and after; in training"
    )


def test_verdict_of_methods():
    def seeds(label, *afters):
        return method(
            label, *(even(f"{label}{i}", 0.2, after, measures=({}, {"val/balance/worst": 0.1})) for i, after in enumerate(afters))
        )

    first, second = verdict([seeds("FocalReward", 0.5, 0.51, 0.49), seeds("StaticReward", 0.3, 0.1, 0.5)])
    assert first.startswith(
        "The held-out score rose under FocalReward (+0.300 [+0.275, +0.325]); it cannot be said to have moved under StaticReward"
    )
    assert "over 3 seeds by Student's t" in first
    assert (
        "which includes 0: they cannot be told apart; the worst criterion ended at 0.10 under FocalReward and 0.10 under StaticReward."
        in second
    )
    _, second = verdict([seeds("FocalReward", 0.5, 0.51, 0.49), seeds("StaticReward", 0.3, 0.31, 0.29)])
    assert second.startswith(
        "The difference, the change under FocalReward minus that under StaticReward, is +0.200 [+0.200, +0.200]"
    )
    assert "excludes 0;" in second


def test_verdict_of_methods_without_evaluations():
    first, second = verdict([method("a", Run(Path("a"))), method("b", Run(Path("b")))])
    assert first.startswith("No run has held-out prompts before and after training")
    assert second == "There are no two methods to compare."


@pytest.mark.parametrize("count", [1, 2])
def test_two_sentences(tmp_path, count):
    runs = [read_run(make_run(tmp_path / str(i), batches=4, seed=i), rollouts=100) for i in range(2)]
    methods = [method("m", *runs)] if count == 1 else [method("m", runs[0]), method("n", runs[1])]
    for sentence in verdict(methods):
        assert sentence.endswith(".")
        assert ". " not in sentence.replace("vs. ", "")
