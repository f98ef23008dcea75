"""Focal weights and bounds against loops; the same by hand: the doctests of the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lightning_focal import functional as fn
from tests import oracles
from tests.functional.cases import agree, batches, given, groups, rows, tensors

GAMMAS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 8.0])
DTYPES = st.sampled_from([torch.float32, torch.float64])
SEEDS = st.integers(0, 2**32 - 1)
ONE_MET = torch.tensor([[1.0, 0.0, 0.0, 0.0]])


def prior(p, c, seed, dtype=torch.float32):
    points = torch.from_numpy(np.random.default_rng(seed).integers(1, 10, (p, c))).to(dtype)
    return points / points.sum(-1, keepdim=True)


def test_2_000_ragged_cases_agree_with_the_loop():
    for number, (scores, weights, mask) in enumerate(batches(seed=2)):
        gamma, epsilon = (0.0, 1.0, 3.0, 0.5)[number], (0.05, 0.01)[number % 2]
        applies = mask.any(1)
        sigma = fn.inverse_reward_projection(*tensors(scores, weights, mask))
        w = fn.focal_weights(sigma, *tensors(weights, applies), gamma=gamma, epsilon=epsilon)
        levels = rows(oracles.saturation, scores, weights, mask)
        expected = rows(lambda *row: oracles.focal_weights(*row, gamma, epsilon), levels, weights, applies)  # noqa: B023
        agree(w, expected)
        rewards = fn.weighted_reward(torch.from_numpy(scores), w, torch.from_numpy(mask))
        agree(rewards, rows(oracles.static_reward, scores, expected, mask))


@pytest.mark.parametrize(("mix", "bounds"), [(0.7, None), (1.0, (0.1, 0.4)), (0.7, (0.05, 0.3))])
def test_mix_and_then_bounds_agree_with_the_loop(mix, bounds):
    rng = np.random.default_rng(3)
    levels, base = rng.random((500, 5)), rng.dirichlet(np.ones(5), 500)
    got = fn.focal_weights(*tensors(levels, base), gamma=2.0, mix=mix, bounds=bounds)
    expected = mix * rows(lambda *row: oracles.focal_weights(*row, np.full(5, True), 2.0), levels, base) + (1 - mix) * base
    agree(got, oracles.bounded(expected, *bounds) if bounds else expected)


@given(st.integers(1, 70), SEEDS, DTYPES, GAMMAS)
def test_gamma_zero_and_equal_levels_are_static(c, seed, dtype, gamma):
    b = prior(4, c, seed, dtype)
    assert torch.equal(fn.base_weights(b), b)
    assert torch.equal(fn.focal_weights(torch.rand(4, c, dtype=dtype), b, gamma=0.0), b)
    for mix in (1.0, 0.3):
        assert torch.equal(fn.focal_weights(torch.rand(4, 1, dtype=dtype).expand(4, c), b, gamma=gamma, mix=mix), b)
    assert torch.equal(fn.focal_weights(torch.rand(4, c, dtype=dtype), b, gamma=0.0, bounds=(0.0, 1.0)), b)
    assert fn.focal_weights(torch.rand(1, 1), torch.tensor([[0.3]]), gamma=gamma).tolist() == [[1.0]]


@given(groups(dtype=torch.float32), st.sampled_from([0.0, 1.0, 3.0]))
def test_float32_agrees_with_float64(case, gamma):
    scores, weights, mask = case
    sigma = fn.inverse_reward_projection(scores, weights, mask)
    single = fn.focal_weights(sigma, weights, gamma=gamma)
    double = fn.focal_weights(sigma.double(), weights.double(), gamma=gamma)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)
    rewards = fn.weighted_reward(scores, single, mask)
    torch.testing.assert_close(rewards.double(), fn.weighted_reward(scores.double(), double, mask), rtol=1e-6, atol=0)


def test_half_precision_nothing_applies_and_zero_weights():
    for dtype in (torch.float16, torch.bfloat16):
        sigma, b = torch.rand(2, 3).to(dtype).requires_grad_(), torch.rand(2, 3).to(dtype).requires_grad_()
        w = fn.focal_weights(sigma, b)
        assert (w.dtype, w.requires_grad) == (torch.float32, False)
        assert torch.equal(w, fn.focal_weights(sigma.float(), b.float()))
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert fn.focal_weights(torch.zeros(1, 3), torch.ones(1, 3), nothing).tolist() == [[0.0, 0.0, 0.0]]
    assert fn.focal_weights(torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
    assert fn.focal_weights(torch.ones(1, 2), torch.ones(1, 2), epsilon=0.0).tolist() == [[0.5, 0.5]]
    assert fn.focal_weights(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2), epsilon=0.0).tolist() == [[0.0, 1.0]]


def test_bounds_are_weights_and_multiples_of_b_on_ragged_rubrics():
    w = fn.focal_weights(ONE_MET, torch.full((1, 4), 0.25), bounds=(0.1, 0.35))
    torch.testing.assert_close(w, torch.tensor([[0.1, 0.3, 0.3, 0.3]]))
    sigma, applies = ONE_MET.expand(2, 4), torch.tensor([[True] * 4, [True, True, False, False]])
    w = fn.focal_weights(sigma, torch.ones(2, 4), applies, bounds=(0.5, 2.0))
    torch.testing.assert_close(w, torch.tensor([[0.125, 0.875 / 3, 0.875 / 3, 0.875 / 3], [0.25, 0.75, 0.0, 0.0]]))
    absolute = fn.focal_weights(sigma, torch.ones(2, 4), applies, bounds=(torch.tensor(0.1), torch.tensor(0.9)))
    torch.testing.assert_close(absolute, torch.tensor([[0.1, 0.3, 0.3, 0.3], [0.1, 0.9, 0.0, 0.0]]))


def feasible(rng, c):
    inside = rng.random(c)
    inside /= inside.sum()
    return inside * rng.random(c), inside + (1 - inside) * rng.random(c)


def test_10_000_rows_agree_with_bisection():
    rng = np.random.default_rng(0)
    values, low, high = (np.zeros((10_000, 6)) for _ in range(3))
    mask = np.arange(6) < rng.integers(1, 7, (10_000, 1))
    for row, c in enumerate(mask.sum(1)):
        values[row, :c] = rng.normal(size=c)
        low[row, :c], high[row, :c] = feasible(rng, c)
    agree(fn.project_bounded_simplex(*tensors(values, low, high, mask)), oracles.bounded(values, low, high), atol=1e-9)


@given(st.integers(1, 40), SEEDS, DTYPES)
def test_constraints_hold(c, seed, dtype):
    rng = np.random.default_rng(seed)
    low, high = (torch.from_numpy(x).to(dtype) for x in feasible(rng, c))
    w = fn.project_bounded_simplex(torch.from_numpy(rng.normal(size=(1, c))).to(dtype), low, high)
    assert w.dtype == dtype
    assert bool(((w >= low) & (w <= high)).all())
    torch.testing.assert_close(w.sum(), torch.ones((), dtype=dtype), rtol=0, atol=1e-6)


def test_tight_bounds_points_inside_and_rows_of_nothing():
    third = torch.full((1, 3), 1 / 3)
    torch.testing.assert_close(fn.project_bounded_simplex(torch.tensor([[5.0, 0.0, 1.0]]), third, third), third)
    w = fn.project_bounded_simplex(torch.tensor([[1.0, 0.0]]), torch.tensor(0.5), torch.tensor(0.9))
    torch.testing.assert_close(w, torch.tensor([[0.5, 0.5]]))
    w = torch.tensor([[0.2, 0.3, 0.5]])
    assert torch.equal(fn.project_bounded_simplex(w, torch.tensor(0.1), torch.tensor(0.6)), w)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert fn.project_bounded_simplex(w, torch.tensor(0.9), torch.tensor(1.0), nothing).tolist() == [[0.0, 0.0, 0.0]]
    mask = torch.tensor([[True, True, True], [True, True, False]])
    with pytest.raises(ValueError, match="C = 2 criteria"):
        fn.project_bounded_simplex(torch.rand(2, 3), torch.tensor(0.0), torch.tensor(0.4), mask)
