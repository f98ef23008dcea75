from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.functional import base_weights, focal_weights, inverse_reward_projection, weighted_reward
from tests import oracles
from tests.functional.cases import batches, groups, tensors

GAMMAS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 8.0])


def prior(p, c, seed, dtype=torch.float32):
    points = torch.from_numpy(np.random.default_rng(seed).integers(1, 10, (p, c))).to(dtype)
    return points / points.sum(-1, keepdim=True)


def test_by_hand():
    # d = (0.05, 0.55, 1.05), d^2 = (0.0025, 0.3025, 1.1025); times b = (0.5, 0.25, 0.25): sum 0.3525
    w = focal_weights(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.5, 0.25, 0.25]]), gamma=2.0)
    torch.testing.assert_close(w, torch.tensor([[0.00125, 0.075625, 0.275625]]) / 0.3525)


def test_10_000_ragged_cases_agree_with_the_loop():
    cases = 0
    for number, (scores, weights, mask) in enumerate(batches(seed=2)):
        gamma, epsilon = (0.0, 1.0, 3.0, 0.5)[number % 4], (0.05, 0.01)[number % 2]
        sigma = inverse_reward_projection(*tensors(scores, weights, mask))
        applies = mask.any(1)
        w = focal_weights(sigma, *tensors(weights, applies), gamma=gamma, epsilon=epsilon)
        rewards = weighted_reward(torch.from_numpy(scores), w, torch.from_numpy(mask))
        for p in range(len(scores)):
            levels = oracles.saturation(scores[p], weights[p], mask[p])
            expected = oracles.focal_weights(levels, weights[p], applies[p], gamma, epsilon)
            np.testing.assert_allclose(w[p], expected, rtol=0, atol=1e-6)
            np.testing.assert_allclose(rewards[p], oracles.static_reward(scores[p], expected, mask[p]), rtol=0, atol=1e-6)
            cases += 1
    assert cases == 10_000


@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]))
def test_gamma_zero_is_static(c, seed, dtype):
    b = prior(4, c, seed, dtype)
    assert torch.equal(focal_weights(torch.rand(4, c, dtype=dtype), b, gamma=0.0), b)


@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64]), GAMMAS)
def test_equal_levels_are_static(c, seed, dtype, gamma):
    b = prior(4, c, seed, dtype)
    assert torch.equal(focal_weights(torch.rand(4, 1, dtype=dtype).expand(4, c), b, gamma=gamma), b)


@given(groups())
def test_gamma_zero_leaves_the_reward_alone(case):
    scores, weights, mask = case
    w = focal_weights(inverse_reward_projection(scores, weights, mask), weights, gamma=0.0)
    assert torch.equal(weighted_reward(scores, w, mask), weighted_reward(scores, weights, mask))


@given(st.floats(0, 1), GAMMAS)
def test_one_criterion_is_static(level, gamma):
    assert focal_weights(torch.tensor([[level]]), torch.tensor([[0.3]]), gamma=gamma).tolist() == [[1.0]]


@given(groups(), GAMMAS)
def test_rows_sum_to_one(case, gamma):
    scores, weights, mask = case
    applies = mask.any(1)
    w = focal_weights(inverse_reward_projection(scores, weights, mask), weights, applies, gamma=gamma)
    assert bool((w >= 0).all())
    assert bool((w[~applies] == 0).all())
    torch.testing.assert_close(w.sum(-1), applies.any(-1).to(w.dtype), rtol=0, atol=1e-12)


@given(groups(), GAMMAS)
def test_share_never_grows_with_the_level(case, gamma):
    scores, weights, mask = case
    sigma = inverse_reward_projection(scores, weights, mask)
    share = focal_weights(sigma, weights, gamma=gamma) / weights
    order = sigma.argsort(-1)
    assert bool((share.gather(-1, order).diff(dim=-1) <= 1e-12).all())


@given(groups(), GAMMAS, st.integers(0, 2**32 - 1))
def test_permuting_permutes(case, gamma, seed):
    scores, weights, mask = case
    sigma = inverse_reward_projection(scores, weights, mask)
    w = focal_weights(sigma, weights, gamma=gamma)
    generator = torch.Generator().manual_seed(seed)
    rollouts, criteria = (torch.randperm(n, generator=generator) for n in scores.shape[1:])
    torch.testing.assert_close(
        focal_weights(sigma[:, criteria], weights[:, criteria], gamma=gamma), w[:, criteria], rtol=0, atol=1e-12
    )
    rewards = weighted_reward(scores, w, mask)
    turned = weighted_reward(scores[:, rollouts], w, mask[:, rollouts])
    torch.testing.assert_close(turned, rewards[:, rollouts], rtol=0, atol=1e-12)


@given(groups(), GAMMAS)
def test_padding_and_duplicates_change_nothing(case, gamma):
    scores, weights, mask = case
    applies = mask.any(1)
    w = focal_weights(inverse_reward_projection(scores, weights, mask), weights, applies, gamma=gamma)
    padded = focal_weights(
        torch.nn.functional.pad(inverse_reward_projection(scores, weights, mask), (0, 3), value=float("nan")),
        torch.nn.functional.pad(weights, (0, 3), value=0.7),
        torch.nn.functional.pad(applies, (0, 3)),
        gamma=gamma,
    )
    torch.testing.assert_close(padded, torch.nn.functional.pad(w, (0, 3)), rtol=0, atol=1e-12)
    twice = inverse_reward_projection(scores.repeat(1, 2, 1), weights, mask.repeat(1, 2, 1))
    torch.testing.assert_close(focal_weights(twice, weights, applies, gamma=gamma), w, rtol=0, atol=1e-12)


@given(groups(dtype=torch.float32), st.sampled_from([0.0, 1.0, 3.0]))
def test_float32_agrees_with_float64(case, gamma):
    scores, weights, mask = case
    sigma = inverse_reward_projection(scores, weights, mask)
    single = focal_weights(sigma, weights, gamma=gamma)
    double = focal_weights(sigma.double(), weights.double(), gamma=gamma)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)
    rewards = weighted_reward(scores, single, mask)
    torch.testing.assert_close(rewards.double(), weighted_reward(scores.double(), double, mask), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    sigma, b = torch.rand(2, 3).to(dtype), torch.rand(2, 3).to(dtype)
    w = focal_weights(sigma, b)
    assert w.dtype == torch.float32
    assert torch.equal(w, focal_weights(sigma.float(), b.float()))


def test_nothing_applies_and_zero_weights():
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert focal_weights(torch.zeros(1, 3), torch.ones(1, 3), nothing).tolist() == [[0.0, 0.0, 0.0]]
    assert focal_weights(torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
    assert focal_weights(torch.ones(1, 2), torch.ones(1, 2), epsilon=0.0).tolist() == [[0.5, 0.5]]
    assert focal_weights(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2), epsilon=0.0).tolist() == [[0.0, 1.0]]


def test_carries_no_gradient():
    w = focal_weights(torch.rand(1, 3, requires_grad=True), torch.rand(1, 3, requires_grad=True))
    assert not w.requires_grad


def test_base_weights_keep_what_is_normalised():
    b = prior(5, 9, seed=3)
    assert torch.equal(base_weights(b), b)
    assert base_weights(torch.tensor([[2.0, 6.0]])).tolist() == [[0.25, 0.75]]


def test_bounds_absolute_on_uniform_rubrics():
    sigma = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    w = focal_weights(sigma, torch.full((1, 4), 0.25), bounds=(0.1, 0.35))
    torch.testing.assert_close(w, torch.tensor([[0.1, 0.3, 0.3, 0.3]]))


def test_bounds_are_multiples_of_b_on_ragged_rubrics():
    sigma = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    applies = torch.tensor([[True] * 4, [True, True, False, False]])
    w = focal_weights(sigma, torch.ones(2, 4), applies, bounds=(0.5, 2.0))
    torch.testing.assert_close(w, torch.tensor([[0.125, 0.875 / 3, 0.875 / 3, 0.875 / 3], [0.25, 0.75, 0.0, 0.0]]))
    absolute = focal_weights(sigma, torch.ones(2, 4), applies, bounds=(0.1, 0.9), bounds_relative=False)
    torch.testing.assert_close(absolute, torch.tensor([[0.1, 0.3, 0.3, 0.3], [0.1, 0.9, 0.0, 0.0]]))


def test_bounds_that_hold_already_leave_the_weights_alone():
    b = prior(3, 5, seed=1)
    assert torch.equal(focal_weights(torch.rand(3, 5), b, gamma=0.0, bounds=(0.0, 1.0)), b)


@pytest.mark.parametrize("bounds", [(0.3, 1.0), (0.0, 0.2), (0.6, 0.4)])
def test_bounds_that_cannot_hold_name_c(bounds):
    with pytest.raises(ValueError, match="C = 4"):
        focal_weights(torch.rand(1, 4), torch.ones(1, 4), bounds=bounds)


def test_parameters_out_of_range():
    with pytest.raises(ValueError, match="`gamma` must be >= 0, got -1"):
        focal_weights(torch.rand(1, 2), torch.ones(1, 2), gamma=-1)
    with pytest.raises(ValueError, match="`epsilon` must be >= 0, got -1"):
        focal_weights(torch.rand(1, 2), torch.ones(1, 2), epsilon=-1)
    with pytest.raises(ValueError, match=r"`weights` must be \[P, C\] = \(1, 2\), got \(1, 3\)"):
        focal_weights(torch.rand(1, 2), torch.ones(1, 3))
