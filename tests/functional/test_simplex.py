from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.functional import project_bounded_simplex
from tests import oracles


def feasible(rng, c):
    inside = rng.random(c)
    inside /= inside.sum()
    return inside * rng.random(c), inside + (1 - inside) * rng.random(c)


def test_10_000_rows_agree_with_bisection():
    rng = np.random.default_rng(0)
    width = 6
    values, low, high = (np.zeros((10_000, width)) for _ in range(3))
    mask = np.zeros((10_000, width), dtype=bool)
    for row in range(10_000):
        c = rng.integers(1, width + 1)
        mask[row, :c] = True
        values[row, :c] = rng.normal(size=c)
        low[row, :c], high[row, :c] = feasible(rng, c)
    got = project_bounded_simplex(*(torch.from_numpy(x) for x in (values, low, high, mask)))
    for row in range(10_000):
        c = mask[row].sum()
        np.testing.assert_allclose(got[row, :c], oracles.bounded(values[row, :c], low[row, :c], high[row, :c]), rtol=0, atol=1e-9)
        assert got[row, c:].abs().sum() == 0


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
def test_constraints_hold(c, seed, dtype):
    rng = np.random.default_rng(seed)
    low, high = (torch.from_numpy(x).to(dtype) for x in feasible(rng, c))
    w = project_bounded_simplex(torch.from_numpy(rng.normal(size=(1, c))).to(dtype), low, high)
    assert w.dtype == dtype
    assert bool(((w >= low) & (w <= high)).all())
    torch.testing.assert_close(w.sum(), torch.ones((), dtype=dtype), rtol=0, atol=1e-6)


def test_tight_bounds_and_flat_pieces():
    third = torch.full((1, 3), 1 / 3)
    torch.testing.assert_close(project_bounded_simplex(torch.tensor([[5.0, 0.0, 1.0]]), third, third), third)
    w = project_bounded_simplex(torch.tensor([[1.0, 0.0]]), torch.tensor(0.5), torch.tensor(0.9))
    torch.testing.assert_close(w, torch.tensor([[0.5, 0.5]]))


def test_a_point_inside_comes_back_as_it_is():
    w = torch.tensor([[0.2, 0.3, 0.5]])
    assert torch.equal(project_bounded_simplex(w, torch.tensor(0.1), torch.tensor(0.6)), w)


def test_infeasible_names_the_row_size():
    mask = torch.tensor([[True, True, True], [True, True, False]])
    with pytest.raises(ValueError, match="C = 2 criteria"):
        project_bounded_simplex(torch.rand(2, 3), torch.tensor(0.0), torch.tensor(0.4), mask)


def test_empty_rows_are_zero():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert project_bounded_simplex(torch.rand(1, 2), torch.tensor(0.9), torch.tensor(1.0), nothing).tolist() == [[0.0, 0.0]]
