"""Intervals of a mean: the bootstrap against a loop and by hand, Student's t against tables and by hand."""

import math

import numpy as np
import pytest
import torch

from lightning_focal.functional import bootstrap_interval, student_interval, student_quantile

# Two-sided quantiles from a printed table.
TABLE = {
    0.95: {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980},
    0.9: {1: 6.314, 2: 2.920, 7: 1.895, 20: 1.725},
    0.99: {1: 63.657, 2: 9.925, 3: 5.841, 15: 2.947},
}
NAN = float("nan")


def loop(values, level, draws=4000, seed=0):
    """Resample, average, sort."""
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        means.append(sum(values[rng.integers(len(values))] for _ in values) / len(values))
    tail = (1 - level) / 2
    return sum(values) / len(values), *np.percentile(means, [100 * tail, 100 * (1 - tail)])


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_bootstrap_equals_the_loop_up_to_chance(level):
    values = np.random.default_rng(1).random(30) ** 3
    got = bootstrap_interval(torch.from_numpy(values), level, draws=40_000)
    np.testing.assert_allclose(got, loop(list(values), level), atol=0.006)


def test_bootstrap_by_hand():
    # the mean of two draws is 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), level=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), level=0.9) == (0.5, 0.0, 1.0)
    # four draws of a coin: P(mean = 0) = 1/16, P(mean <= 1/4) = 5/16
    assert bootstrap_interval(torch.tensor([0.0, 1.0, 0.0, 1.0]), level=0.95)[1:] == (0.0, 1.0)
    assert bootstrap_interval(torch.tensor([0.0, 1.0, 0.0, 1.0]), level=0.75)[1:] == (0.25, 0.75)


def test_the_same_values_give_the_same_bootstrap_in_any_dtype():
    values = torch.rand(20, dtype=torch.float64)
    state = torch.random.get_rng_state()
    first = bootstrap_interval(values)
    assert bootstrap_interval(values) == first
    assert torch.equal(torch.random.get_rng_state(), state)  # the run's own generator is not touched
    assert bootstrap_interval(values, seed=1) != first
    assert bootstrap_interval(values, draws=1500)[0] == first[0]
    assert bootstrap_interval(3 * values - 1) == pytest.approx([3 * x - 1 for x in first])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int64):
        coins = torch.tensor([0, 1, 1, 0, 1], dtype=dtype)
        assert bootstrap_interval(coins) == bootstrap_interval(coins.double())


def test_quantiles_are_those_of_the_table():
    for level, row in TABLE.items():
        for freedom, expected in row.items():
            assert student_quantile(freedom, level) == pytest.approx(expected, abs=6e-4), (level, freedom)


def test_student_by_hand():
    half = 3.1824463 * math.sqrt((4 + 1 + 0 + 9) / 3) / 2  # t with 3 degrees of freedom, s / sqrt(n)
    interval = student_interval(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert interval == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-6)
    mean, low, high = student_interval(torch.tensor([0.25]))  # one value has a mean and no interval
    assert (mean, math.isnan(low), math.isnan(high)) == (0.25, True, True)


@pytest.mark.parametrize("interval", [bootstrap_interval, student_interval])
def test_both(interval):
    assert interval(torch.tensor([0.5] * 3)) == (0.5, 0.5, 0.5)
    assert interval(torch.tensor([0.0, NAN, 1.0, NAN, 1.0])) == interval(torch.tensor([0.0, 1.0, 1.0]))
    for nothing in (torch.tensor([]), torch.tensor([NAN])):
        assert all(math.isnan(x) for x in interval(nothing))
    with pytest.raises(ValueError, match=r"`values` must be \[N\], got \(2, 3\)"):
        interval(torch.zeros(2, 3))
    for level in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match=rf"`level` must be in \(0, 1\), got {level}"):
            interval(torch.zeros(2), level)
