"""Student's t, against tables and by hand."""

import math

import pytest
import torch

from lightning_focal.functional import student_interval, student_quantile

# Two-sided quantiles from a printed table.
TABLE = {
    0.95: {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980},
    0.9: {1: 6.314, 2: 2.920, 7: 1.895, 20: 1.725},
    0.99: {1: 63.657, 2: 9.925, 3: 5.841, 15: 2.947},
}


@pytest.mark.parametrize(("level", "freedom"), [(level, n) for level, row in TABLE.items() for n in row])
def test_quantiles_are_those_of_the_table(level, freedom):
    assert student_quantile(freedom, level) == pytest.approx(TABLE[level][freedom], abs=6e-4)


def test_interval_by_hand():
    mean, low, high = student_interval(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    half = 3.1824463 * math.sqrt((4 + 1 + 0 + 9) / 3) / 2  # t with 3 degrees of freedom, s / sqrt(n)
    assert (mean, low, high) == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-6)


def test_equal_values_have_no_width():
    assert student_interval(torch.tensor([0.5, 0.5, 0.5])) == (0.5, 0.5, 0.5)


def test_nan_is_left_out():
    assert student_interval(torch.tensor([0.0, torch.nan, 1.0])) == student_interval(torch.tensor([0.0, 1.0]))


def test_one_value_has_a_mean_and_no_interval():
    mean, low, high = student_interval(torch.tensor([0.25]))
    assert mean == 0.25
    assert math.isnan(low)
    assert math.isnan(high)


def test_no_value():
    assert all(math.isnan(value) for value in student_interval(torch.tensor([torch.nan])))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5])
def test_level_out_of_range(level):
    with pytest.raises(ValueError, match="`level` must be in"):
        student_interval(torch.tensor([0.0, 1.0]), level)


def test_shape_and_freedom():
    with pytest.raises(ValueError, match=r"`values` must be \[N\], got \(1, 2\)"):
        student_interval(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="`freedom` must be >= 1, got 0"):
        student_quantile(0)
