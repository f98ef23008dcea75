"""Held-out scores before and after: of runs, of methods, and between methods."""

import math
from pathlib import Path

import numpy as np
import pytest

from lightning_focal.report.held_out import (
    apart,
    criteria_of,
    criterion_changes,
    measures_of,
    over_seeds,
    ratio_intervals,
    score_change,
    score_of,
)
from lightning_focal.report.methods import Method
from lightning_focal.report.run import Run, read_run
from tests.report.made_run import make_run

T = 4.3026527  # Student, two degrees of freedom


def run(*scores, measures=({}, {}), name="run", batches=8):
    """A run evaluated before and after; scores by prompt, or one for each of six prompts."""
    scores = [score if isinstance(score, dict) else dict.fromkeys("abcdef", score) for score in scores]
    ends = zip((0, batches), scores, measures, strict=False)
    return Run(Path(name), evaluations=tuple({"batch": b, "scores": s, "measures": m} for b, s, m in ends))


def method(label, *runs, seeds=None):
    return Method(label, runs, tuple(range(len(runs)) if seeds is None else seeds))


def keyed(*levels):
    """Measures that hold the scores of criteria."""
    return tuple({f"val/criterion/{key}/score": value for key, value in of_end.items()} for of_end in levels)


def test_differences_pair_up_by_prompt():
    change = score_change(run({"a": 0.1, "b": 0.9, "c": 0.5}, {"c": 0.6, "b": 1.0, "a": 0.2}))
    assert change.before.value == pytest.approx(0.5)
    difference = change.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))  # the same for every prompt
    assert difference.direction == 1
    even = {str(i): 0.5 for i in range(9)}
    assert score_change(run(even, {str(i): i % 2 for i in range(9)})).difference.direction == 0


def test_prompts_without_a_score_are_left_out():
    change = score_change(run({"a": 0.5, "b": None, "c": 0.1}, {"a": 0.25, "b": 0.5}))
    assert (change.before.value, change.after.value, change.units) == (0.5, 0.25, "1 prompts")


@pytest.mark.parametrize("scores", [[], [{"a": 0.5}], [{"a": None}, {"a": 0.5}]])
def test_without_two_evaluations(scores):
    assert score_change(run(*scores)) is None
    assert criterion_changes(run(*scores)) == {}


def test_criteria_from_rollouts_are_the_logged_ones_with_intervals(tmp_path):
    found = read_run(make_run(tmp_path, batches=4, held_out=12), rollouts=1000)
    changes, logged = criterion_changes(found), criterion_changes(Run(found.folder, evaluations=found.evaluations))
    assert sorted(changes) == sorted(logged)
    for key, change in changes.items():
        assert change.before.value == pytest.approx(logged[key].before.value, abs=1e-6)
        assert change.after.value == pytest.approx(logged[key].after.value, abs=1e-6)
        assert change.difference.low <= change.difference.value <= change.difference.high
        assert not logged[key].difference.known
    last = {**found.evaluations[-1], "batch": 9}  # the rollouts of batch 9 were not written
    other = criterion_changes(Run(found.folder, evaluations=(found.evaluations[0], last), held_out=found.held_out))
    assert not any(change.difference.known for change in other.values())
    for row in found.held_out.rows:
        for criterion in row["criteria"]:
            if row["batch"] == 0 and criterion["name"] == "calm":
                criterion["score"] = None  # not judged before: left out
    assert sorted(criterion_changes(found)) == sorted(set(changes) - {"tone"})


def test_ratio_intervals_against_numpy():
    dice = np.random.default_rng(0)
    sums, counts = dice.random((2, 30, 3)) * 4, np.full((2, 30, 3), 4.0)
    means, lows, highs = ratio_intervals(sums, counts, 0.95)
    ratio = sums.sum(1) / counts.sum(1)
    assert means == pytest.approx(np.vstack([ratio, ratio[1:] - ratio[:1]]))
    drawn = []
    for _ in range(4000):
        chosen = dice.integers(0, 30, 30)
        one = sums[:, chosen].sum(1) / counts[:, chosen].sum(1)
        drawn.append(np.vstack([one, one[1:] - one[:1]]))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    assert lows == pytest.approx(low, abs=0.02)
    assert highs == pytest.approx(high, abs=0.02)


def test_over_seeds_by_hand():
    point = over_seeds([0.1, 0.2, 0.6])
    half = T * math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2 / 3)
    assert (point.value, point.low, point.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert (over_seeds([0.5]).value, over_seeds([0.5]).known) == (0.5, False)


def test_one_run_has_an_interval_over_prompts_and_several_over_seeds():
    one, several = score_of(method("m", run(0.2, 0.5))), score_of(method("m", run(0.2, 0.5), run(0.2, 0.6), run(0.2, 0.7)))
    assert (one.units, several.units) == ("6 prompts", "3 seeds")
    assert several.difference.value == pytest.approx(0.4)
    assert several.difference.high - 0.4 == pytest.approx(T * 0.1 / math.sqrt(3))
    assert score_of(method("m", run(0.2, 0.5), Run(Path("b")))).units == "6 prompts"  # one without evaluations does not count
    assert score_of(method("m", Run(Path("b")))) is None


def test_criteria_that_all_runs_know():
    first = run(0.1, 0.2, measures=keyed({"x": 0.1}, {"x": 0.3}))
    second = run(0.1, 0.2, measures=keyed({"x": 0.1, "y": 0.1}, {"x": 0.5, "y": 0.1}))
    found = criteria_of(method("m", first, second))
    assert list(found) == ["x"]
    assert found["x"].difference.value == pytest.approx(0.3)


def test_measures_at_both_ends():
    runs = [run(0.1, 0.2, measures=({"val/balance/worst": 0.1}, {"val/balance/worst": after})) for after in (0.2, 0.4)]
    found = method("m", *runs)
    assert measures_of(found)["worst criterion"].value == pytest.approx(0.3)
    assert measures_of(found, 0)["worst criterion"].value == pytest.approx(0.1)


def test_methods_are_compared_seed_by_seed():
    one = method("a", run(0.2, 0.5), run(0.3, 0.7), seeds=(4, 5))
    difference, units = apart(one, method("b", run(0.3, 0.5), run(0.2, 0.4), seeds=(5, 4)))
    assert difference.value == pytest.approx(((0.3 - 0.2) + (0.4 - 0.2)) / 2)
    assert units == "paired by 2 seeds"
    assert apart(one, method("b", run(0.2, 0.5), run(0.2, 0.6), seeds=(2, 3))) is None


def test_single_runs_are_compared_prompt_by_prompt():
    before = {"a": 0.1, "b": 0.2, "c": 0.3}
    one, other = (method(name, run(before, {k: v + more for k, v in before.items()})) for name, more in (("a", 0.2), ("b", 0.1)))
    difference, units = apart(one, other)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert "3 prompts" in units
    assert "says nothing of other seeds" in units
