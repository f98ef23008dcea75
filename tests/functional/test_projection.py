from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.functional import inverse_reward_projection, projected_sums, weighted_reward
from tests import oracles
from tests.functional.cases import batches, groups, tensors

TEMPERATURES = st.sampled_from([0.05, 0.3, 1.0, 7.0])


def test_by_hand():
    # R = (0.5, 1), q = softmax(R) = (0.377541, 0.622459)
    scores = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    sigma = inverse_reward_projection(scores, torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(sigma, torch.tensor([[1.0, 0.622459]]), rtol=1e-6, atol=0)


def test_10_000_ragged_cases_agree_with_the_loop():
    cases = 0
    for number, (scores, weights, mask) in enumerate(batches(seed=1)):
        temperature = (0.05, 0.5, 1.0, 5.0)[number % 4]
        projected, judged = projected_sums(*tensors(scores, weights, mask), temperature=temperature)
        sigma = inverse_reward_projection(*tensors(scores, weights, mask), temperature=temperature)
        for p in range(len(scores)):
            above, below = oracles.projection_sums(scores[p], weights[p], mask[p], temperature)
            np.testing.assert_allclose(projected[p], above, rtol=0, atol=1e-6)
            np.testing.assert_allclose(judged[p], below, rtol=0, atol=1e-6)
            np.testing.assert_allclose(
                sigma[p], oracles.saturation(scores[p], weights[p], mask[p], temperature), rtol=0, atol=1e-6
            )
            cases += 1
    assert cases == 10_000


@given(groups(judged=True))
def test_hot_is_the_group_mean(case):
    scores, weights, mask = case
    torch.testing.assert_close(inverse_reward_projection(scores, weights, mask, 1e9), scores.mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(inverse_reward_projection(scores, weights, mask, float("inf")), scores.mean(1), rtol=0, atol=1e-6)


@given(groups(judged=True))
def test_cold_is_the_best_rollout(case):
    scores, weights, _ = case
    rewards = weighted_reward(scores, weights)
    ahead = rewards.topk(min(2, rewards.shape[1]), dim=1).values
    clear = ahead[:, 0] - ahead[:, -1] > 1e-4 if rewards.shape[1] > 1 else torch.ones(len(rewards), dtype=torch.bool)
    best = scores[torch.arange(len(scores)), rewards.argmax(1)]
    sigma = inverse_reward_projection(scores, weights, temperature=1e-7)
    torch.testing.assert_close(sigma[clear], best[clear], rtol=0, atol=1e-6)


def test_cold_and_not_judged_on_the_best_is_the_best_of_the_judged():
    scores = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.7]]])
    mask = torch.tensor([[[True, True, False], [True, True, True]]])
    sigma = inverse_reward_projection(scores, torch.full((1, 3), 1 / 3), mask, temperature=1e-4)
    torch.testing.assert_close(sigma, torch.tensor([[1.0, 1.0, 0.7]]))


@given(groups(), TEMPERATURES)
def test_never_nan_and_in_range(case, temperature):
    scores, weights, mask = case
    sigma = inverse_reward_projection(scores, weights, mask, temperature)
    assert bool(((sigma >= 0) & (sigma <= 1)).all())
    assert bool((sigma[~mask.any(1)] == 0).all())


@given(groups(), TEMPERATURES, st.integers(0, 2**32 - 1))
def test_permutations_and_duplicates(case, temperature, seed):
    scores, weights, mask = case
    sigma = inverse_reward_projection(scores, weights, mask, temperature)
    generator = torch.Generator().manual_seed(seed)
    rollouts, criteria = (torch.randperm(n, generator=generator) for n in scores.shape[1:])
    turned = inverse_reward_projection(scores[:, rollouts], weights, mask[:, rollouts], temperature)
    torch.testing.assert_close(turned, sigma, rtol=0, atol=1e-12)
    turned = inverse_reward_projection(scores[..., criteria], weights[:, criteria], mask[..., criteria], temperature)
    torch.testing.assert_close(turned, sigma[:, criteria], rtol=0, atol=1e-12)
    twice = inverse_reward_projection(scores.repeat(1, 2, 1), weights, mask.repeat(1, 2, 1), temperature)
    torch.testing.assert_close(twice, sigma, rtol=0, atol=1e-12)


@given(groups(), TEMPERATURES)
def test_padding_changes_nothing(case, temperature):
    scores, weights, mask = case
    padded = torch.nn.functional.pad(scores, (0, 2, 0, 3), value=float("nan"))
    sigma = inverse_reward_projection(
        padded, torch.nn.functional.pad(weights, (0, 2)), torch.nn.functional.pad(mask, (0, 2, 0, 3)), temperature
    )
    torch.testing.assert_close(sigma[:, :-2], inverse_reward_projection(scores, weights, mask, temperature), rtol=0, atol=1e-12)
    assert bool((sigma[:, -2:] == 0).all())


@given(groups(dtype=torch.float32), TEMPERATURES)
def test_float32_agrees_with_float64(case, temperature):
    scores, weights, mask = case
    single = inverse_reward_projection(scores, weights, mask, temperature)
    assert single.dtype == torch.float32
    double = inverse_reward_projection(scores.double(), weights.double(), mask, temperature)
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    scores = torch.rand(2, 4, 3).to(dtype)
    weights = torch.rand(2, 3).to(dtype)
    sigma = inverse_reward_projection(scores, weights)
    assert sigma.dtype == torch.float32
    torch.testing.assert_close(sigma, inverse_reward_projection(scores.float(), weights.float()), rtol=0, atol=0)


def test_no_mask_is_a_full_mask():
    scores, weights = torch.rand(3, 4, 5), torch.rand(3, 5)
    full = projected_sums(scores, weights, torch.ones(3, 4, 5, dtype=torch.bool))
    for a, b in zip(projected_sums(scores, weights), full, strict=True):
        torch.testing.assert_close(a, b)


def test_a_large_batch_is_worked_in_pieces_and_reads_the_same():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(300, 40, 60, generator=generator)  # more than one piece
    mask = torch.rand(scores.shape, generator=generator) < 0.8
    weights = torch.rand(300, 60, generator=generator)
    junk = torch.where(mask, scores, float("inf"))
    for temperature in (0.1, 1.0):
        sigma = inverse_reward_projection(junk, weights, mask, temperature)
        for p in (0, 150, 299):
            one = inverse_reward_projection(scores[p : p + 1], weights[p : p + 1], mask[p : p + 1], temperature)
            torch.testing.assert_close(sigma[p : p + 1], one)


def test_carries_no_gradient():
    scores = torch.rand(1, 2, 3, requires_grad=True)
    assert not inverse_reward_projection(scores, torch.rand(1, 3, requires_grad=True)).requires_grad


@settings(max_examples=20)
@given(st.sampled_from([0.0, -1.0, float("nan")]))
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="`temperature` must be > 0"):
        inverse_reward_projection(torch.rand(1, 2, 3), torch.rand(1, 3), temperature=temperature)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"`scores` must be \[P, G, C\], got \(2, 3\)"):
        inverse_reward_projection(torch.rand(2, 3), torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"`weights` must be \[P, C\] = \(1, 3\), got \(1, 2\)"):
        inverse_reward_projection(torch.rand(1, 2, 3), torch.rand(1, 2))
    with pytest.raises(TypeError, match=r"`mask` must be torch\.bool"):
        inverse_reward_projection(torch.rand(1, 2, 3), torch.rand(1, 3), torch.ones(1, 2, 3))
