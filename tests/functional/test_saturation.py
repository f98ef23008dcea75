"""Rewards and saturation against loops; the same by hand: the doctests of the package."""

import pytest
import torch
from hypothesis import strategies as st

from lightning_focal.functional import inverse_reward_projection, level_index, level_sums, projected_sums, weighted_reward
from tests import oracles
from tests.functional.cases import agree, batches, given, groups, rows, tensors

TEMPERATURES = st.sampled_from([0.05, 0.3, 1.0, 7.0])
INFINITY = float("inf")


def test_2_000_ragged_cases_agree_with_the_loop():
    for temperature, case in zip((0.05, 0.5, 1.0, 5.0), batches(seed=5), strict=True):
        sums = rows(lambda *row: oracles.projection_sums(*row, temperature), *case)  # noqa: B023
        for got, expected in zip(projected_sums(*tensors(*case), temperature=temperature), sums.swapaxes(0, 1), strict=True):
            agree(got, expected)
        expected = rows(lambda *row: oracles.saturation(*row, temperature), *case)  # noqa: B023
        agree(inverse_reward_projection(*tensors(*case), temperature=temperature), expected)


@given(groups(judged=True))
def test_hot_is_the_group_mean_and_cold_the_best_rollout(case):
    scores, weights, mask = case
    for hot in (1e9, INFINITY):
        torch.testing.assert_close(inverse_reward_projection(scores, weights, mask, hot), scores.mean(1), rtol=0, atol=1e-6)
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


@given(groups(dtype=torch.float32), TEMPERATURES)
def test_float32_agrees_with_float64(case, temperature):
    scores, weights, mask = case
    single = inverse_reward_projection(scores, weights, mask, temperature)
    assert single.dtype == torch.float32
    double = inverse_reward_projection(scores.double(), weights.double(), mask, temperature)
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-9)


def test_no_mask_is_a_full_mask():
    scores, weights = torch.rand(3, 4, 5), torch.rand(3, 5)
    full = projected_sums(scores, weights, torch.ones(3, 4, 5, dtype=torch.bool))
    for a, b in zip(projected_sums(scores, weights), full, strict=True):
        torch.testing.assert_close(a, b)


def test_levels_add_up_by_name():
    index = level_index([["b"], []], ["a", "b"], 2)
    assert index.tolist() == [[1, -1], [-1, -1]]
    projected, judged = level_sums(torch.ones(2, 3, 2), torch.tensor([[1.0, 0.0]] * 2), None, index, 2)
    assert projected.tolist() == pytest.approx([0.0, 1.0])
    assert judged.tolist() == pytest.approx([0.0, 1.0])


def test_2_000_ragged_cases_agree_with_the_loop_reward():
    for case in batches(seed=3):
        agree(weighted_reward(*tensors(*case)), rows(oracles.static_reward, *case))


def test_nan_that_counts_stays_visible_and_what_does_not_count_is_not_read():
    for junk in (float("nan"), float("inf"), -3.0):
        scores = torch.tensor([[[0.5, junk]]])
        assert weighted_reward(scores, torch.ones(1, 2), torch.tensor([[[True, False]]])).item() == 0.5
        for mask in (None, torch.ones(1, 1, 2, dtype=torch.bool)):
            assert weighted_reward(scores, torch.ones(1, 2), mask).isnan().all() == (junk != junk)


def test_gradient_reaches_the_scores():
    scores = torch.rand(1, 1, 2, requires_grad=True)
    weighted_reward(scores, torch.tensor([[0.25, 0.75]]), torch.ones(1, 1, 2, dtype=torch.bool)).sum().backward()
    torch.testing.assert_close(scores.grad, torch.tensor([[[0.25, 0.75]]]))
