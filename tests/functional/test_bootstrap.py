import math

import numpy as np
import pytest
import torch

from lightning_focal.functional import bootstrap_interval


def loop(values, level, draws=4000, seed=0):
    """Resample, average, sort."""
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        means.append(sum(values[rng.integers(len(values))] for _ in values) / len(values))
    tail = (1 - level) / 2
    return sum(values) / len(values), *np.percentile(means, [100 * tail, 100 * (1 - tail)])


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_equals_the_loop_up_to_chance(level):
    values = np.random.default_rng(1).random(30) ** 3
    got = bootstrap_interval(torch.from_numpy(values), level, draws=40_000)
    np.testing.assert_allclose(got, loop(list(values), level), atol=0.006)


def test_is_near_the_normal_interval():
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * values.std().item() / 20
    assert mean == pytest.approx(values.mean().item())
    assert (low, high) == (pytest.approx(mean - half, abs=0.01), pytest.approx(mean + half, abs=0.01))


def test_two_values_are_a_binomial():
    # the mean of two draws is 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), level=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), level=0.9) == (0.5, 0.0, 1.0)


def test_a_percentile_by_hand():
    # four draws of a coin: P(mean = 0) = 1/16, P(mean <= 1/4) = 5/16
    assert bootstrap_interval(torch.tensor([0.0, 1.0, 0.0, 1.0]), level=0.95)[1:] == (0.0, 1.0)
    assert bootstrap_interval(torch.tensor([0.0, 1.0, 0.0, 1.0]), level=0.75)[1:] == (0.25, 0.75)


@pytest.mark.parametrize("values", [[0.25], [0.25] * 50])
def test_without_spread_there_is_no_doubt(values):
    assert bootstrap_interval(torch.tensor(values)) == (0.25, 0.25, 0.25)


def test_nan_is_left_out():
    nan = float("nan")
    assert bootstrap_interval(torch.tensor([0.0, nan, 1.0, nan, 1.0])) == bootstrap_interval(torch.tensor([0.0, 1.0, 1.0]))
    assert all(math.isnan(x) for x in bootstrap_interval(torch.tensor([nan])))
    assert all(math.isnan(x) for x in bootstrap_interval(torch.tensor([])))


def test_the_same_values_give_the_same_interval():
    values = torch.rand(20)
    state = torch.random.get_rng_state()
    first = bootstrap_interval(values)
    assert bootstrap_interval(values) == first
    assert torch.equal(torch.random.get_rng_state(), state)  # the run's own dice are not touched
    assert bootstrap_interval(values, seed=1) != first
    assert bootstrap_interval(values, draws=1500)[0] == first[0]


def test_wider_where_more_must_be_covered():
    values = torch.rand(20)
    inner, outer = bootstrap_interval(values, 0.5), bootstrap_interval(values, 0.99)
    assert outer[1] < inner[1] < inner[0] < inner[2] < outer[2]


def test_shifting_and_scaling():
    values = torch.rand(20, dtype=torch.float64)
    expected = [3 * x - 1 for x in bootstrap_interval(values)]
    assert bootstrap_interval(3 * values - 1) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_any_dtype_is_averaged_in_double(dtype):
    values = torch.tensor([0, 1, 1, 0, 1], dtype=dtype)
    assert bootstrap_interval(values) == bootstrap_interval(values.double())


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"`values` must be \[N\], got \(2, 3\)"):
        bootstrap_interval(torch.zeros(2, 3))
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"`level` must be in \(0, 1\), got {level}"):
            bootstrap_interval(torch.zeros(2), level)
