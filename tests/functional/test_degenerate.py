from __future__ import annotations

import pytest
import torch

from lightning_focal.functional import (
    dvao_advantage,
    focal_weights,
    gdpo_advantage,
    group_advantage,
    inverse_reward_projection,
    rloo_advantage,
    saw_weights,
    softmin_advantage,
    strict_completion,
    weighted_reward,
    worst_of_reward,
)

SHAPES = [(0, 4, 3), (2, 4, 0), (2, 1, 3), (2, 4, 1), (1, 1, 1)]
FILLS = {"zero": 0.0, "one": 1.0, "equal": 0.3}


def pipeline(scores, weights, mask, gamma):
    sigma = inverse_reward_projection(scores, weights, mask)
    w = focal_weights(sigma, weights, None if mask is None else mask.any(1), gamma=gamma)
    return sigma, w, weighted_reward(scores, w, mask)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", sorted(FILLS))
@pytest.mark.parametrize("masked", [None, True, False])
def test_no_nan_and_no_signal(shape, fill, masked):
    p, _, c = shape
    scores = torch.full(shape, FILLS[fill])
    weights = torch.full((p, c), 1 / max(c, 1))
    mask = None if masked is None else torch.full(shape, masked)
    sigma, w, rewards = pipeline(scores, weights, mask, gamma=3.0)
    assert sigma.shape == w.shape == (p, c)
    for out in (sigma, w, rewards, worst_of_reward(scores, weights, mask), saw_weights(scores, weights, mask)):
        assert bool(out.isfinite().all())
    valid = None if mask is None else mask.any(-1)
    advantages = [group_advantage(rewards, valid, scale=scale) for scale in ("group", "none", "batch")]
    advantages.append(rloo_advantage(rewards, valid))
    advantages += [f(scores, weights, mask) for f in (gdpo_advantage, dvao_advantage, softmin_advantage)]
    for advantage in advantages:
        assert advantage.shape == shape[:2]
        assert advantage.abs().sum() == 0
    assert strict_completion(scores, mask)[0].shape == shape[:2]


def test_one_criterion_leaves_the_reward_alone():
    scores = torch.rand(3, 5, 1)
    _, w, rewards = pipeline(scores, torch.full((3, 1), 0.4), None, gamma=3.0)
    assert torch.equal(w, torch.ones(3, 1))
    torch.testing.assert_close(rewards, scores[..., 0])


def test_whatever_stands_at_masked_scores_is_never_read():
    scores, weights = torch.rand(2, 4, 3), torch.full((2, 3), 1 / 3)
    mask = torch.rand(2, 4, 3) < 0.6
    junk = torch.where(mask, scores, float("nan"))
    for clean, dirty in zip(pipeline(scores, weights, mask, 2.0), pipeline(junk, weights, mask, 2.0), strict=True):
        torch.testing.assert_close(dirty, clean)
