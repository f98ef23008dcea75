"""Held-out scores before and after."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_focal.report.held_out import criterion_changes, prompt_changes, ratio_intervals, score_change
from lightning_focal.report.run import Run, read_run
from tests.report.made_run import make_run


def evaluated(*scores, measures=({}, {})):
    entries = [{"batch": 4 * i, "scores": s, "measures": m} for i, (s, m) in enumerate(zip(scores, measures, strict=False))]
    return Run(Path("run"), evaluations=tuple(entries))


def test_differences_pair_up_by_prompt():
    change = score_change(evaluated({"a": 0.1, "b": 0.9, "c": 0.5}, {"c": 0.6, "b": 1.0, "a": 0.2}))
    assert change.before.value == pytest.approx(0.5)
    assert change.difference.value == pytest.approx(0.1)
    assert (change.difference.low, change.difference.high) == pytest.approx((0.1, 0.1))  # the same for every prompt
    assert change.direction == 1


def test_prompts_without_a_score_are_left_out():
    change = score_change(evaluated({"a": 0.5, "b": None, "c": 0.1}, {"a": 0.25, "b": 0.5}))
    assert (change.before.value, change.after.value, change.units) == (0.5, 0.25, "1 prompts")
    assert prompt_changes(evaluated({"a": 0.5, "b": None}, {"a": 0.25, "b": 0.5})) == {"a": -0.25}


@pytest.mark.parametrize("scores", [[], [{"a": 0.5}], [{"a": None}, {"a": 0.5}]])
def test_without_two_evaluations(scores):
    run = evaluated(*scores)
    assert score_change(run) is None
    assert criterion_changes(run) == {}


def test_direction():
    rose = score_change(evaluated({str(i): 0.2 for i in range(9)}, {str(i): 0.3 + i / 100 for i in range(9)}))
    unsure = score_change(evaluated({str(i): 0.5 for i in range(9)}, {str(i): i % 2 for i in range(9)}))
    assert (rose.direction, unsure.direction) == (1, 0)


def test_criteria_from_rollouts_are_the_logged_ones_with_intervals(tmp_path):
    run = read_run(make_run(tmp_path, batches=4, held_out=12), rollouts=1000)
    found, logged = criterion_changes(run), criterion_changes(Run(run.folder, evaluations=run.evaluations))
    assert sorted(found) == sorted(logged)
    for key, change in found.items():
        assert change.before.value == pytest.approx(logged[key].before.value, abs=1e-6)
        assert change.after.value == pytest.approx(logged[key].after.value, abs=1e-6)
        assert change.difference.low <= change.difference.value <= change.difference.high
        assert logged[key].difference.low is None


def test_rollouts_of_another_evaluation_give_no_interval(tmp_path):
    run = read_run(make_run(tmp_path, batches=4), rollouts=1000)
    last = {**run.evaluations[-1], "batch": 9}  # the rollouts of batch 9 were not written
    found = criterion_changes(Run(run.folder, evaluations=(run.evaluations[0], last), held_out=run.held_out))
    assert all(change.difference.low is None for change in found.values())


def test_ratio_intervals_against_numpy():
    dice = np.random.default_rng(0)
    sums, counts = dice.random((2, 30, 3)) * 4, np.full((2, 30, 3), 4.0)
    means, lows, highs = ratio_intervals(torch.tensor(sums), torch.tensor(counts), 0.95)
    ratio = sums.sum(1) / counts.sum(1)
    assert means.numpy() == pytest.approx(np.vstack([ratio, ratio[1:] - ratio[:1]]))
    drawn = []
    for _ in range(4000):
        chosen = dice.integers(0, 30, 30)
        one = sums[:, chosen].sum(1) / counts[:, chosen].sum(1)
        drawn.append(np.vstack([one, one[1:] - one[:1]]))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    assert lows.numpy() == pytest.approx(low, abs=0.02)
    assert highs.numpy() == pytest.approx(high, abs=0.02)


def test_a_criterion_that_was_not_judged_before_is_left_out():
    sums, counts = torch.ones(2, 5, 1).double(), torch.ones(2, 5, 1).double()
    counts[0] = 0
    means, _, _ = ratio_intervals(sums / 2, counts, 0.95)
    assert torch.isnan(means[2]).all() or torch.isinf(means[2]).all()
