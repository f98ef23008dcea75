from __future__ import annotations

import torch
from torch.nn.functional import pad

from lightning_focal.functional import weighted_reward
from tests import oracles
from tests.functional.cases import agree, batches, given, groups, rows, tensors


def test_by_hand():
    scores = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]]])
    mask = torch.tensor([[[True, True, True], [True, False, True]]])
    rewards = weighted_reward(scores, torch.tensor([[0.5, 0.3, 0.2]]), mask)
    torch.testing.assert_close(rewards, torch.tensor([[0.65, 0.2 / 0.7]]))
    assert weighted_reward(torch.ones(1, 2, 2), torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


def test_2_000_ragged_cases_agree_with_the_loop():
    for case in batches(seed=3):
        agree(weighted_reward(*tensors(*case)), rows(oracles.static_reward, *case))


@given(groups())
def test_in_range_zero_where_nothing_counts_and_blind_to_padding(case):
    scores, weights, mask = case
    rewards = weighted_reward(scores, weights, mask)
    assert bool(((rewards >= 0) & (rewards <= 1 + 1e-12)).all())
    assert bool((rewards[~mask.any(-1)] == 0).all())
    wide = (pad(scores, (0, 2, 0, 3), value=float("nan")), pad(weights, (0, 2), value=0.5), pad(mask, (0, 2, 0, 3)))
    torch.testing.assert_close(weighted_reward(*wide), pad(rewards, (0, 3)), rtol=0, atol=1e-12)


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
