"""Shapes without prompts, criteria or contrast: no NaN, and no signal."""

from __future__ import annotations

import pytest
import torch

from lightning_focal import functional as fn


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (2, 1, 3), (2, 4, 1), (1, 1, 1)])
@pytest.mark.parametrize("masked", [None, True, False])
def test_no_nan_and_no_signal(shape, masked):
    for fill in (0.0, 1.0, 0.3):
        check(shape, fill, masked)


def check(shape, fill, masked):
    scores, weights = torch.full(shape, fill), torch.full((shape[0], shape[2]), 1 / max(shape[2], 1))
    mask, applies, valid = None, None, None
    if masked is not None:
        mask = torch.full(shape, masked)
        applies, valid = mask.any(1), mask.any(-1)
    sigma = fn.inverse_reward_projection(scores, weights, mask)
    w = fn.focal_weights(sigma, weights, applies)
    rewards = fn.weighted_reward(scores, w, mask)
    assert sigma.shape == w.shape == weights.shape
    weightings = [
        f(scores, weights, mask)
        for f in (fn.saw_weights, fn.mo_grpo_weights, fn.diva_weights, fn.pow3r_factors, fn.sa_mrpo_weights)
    ]
    ability = fn.item_response_reward(scores, weights, mask, difficulty=torch.zeros_like(weights))
    for out in (sigma, w, rewards, fn.worst_of_reward(scores, weights, mask), ability, *weightings):
        assert bool(out.isfinite().all())
    advantages = [fn.group_advantage(rewards, valid, scale=scale) for scale in ("group", "none", "batch")]
    advantages += [fn.rloo_advantage(rewards, valid)]
    advantages += [
        f(scores, weights, mask) for f in (fn.gdpo_advantage, fn.dvao_advantage, fn.softmin_advantage, fn.gd2po_advantage)
    ]
    for advantage in advantages:
        assert advantage.shape == fn.strict_completion(scores, mask)[0].shape == shape[:2]
        assert advantage.abs().sum() == 0
