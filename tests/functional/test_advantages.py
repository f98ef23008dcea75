"""Advantages against loops; the same by hand: the doctests of the package."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lightning_focal.functional import batch_moments, batch_std, group_advantage, rloo_advantage
from tests import oracles
from tests.functional.cases import agree, given, rows, tensors

ESTIMATORS = {scale: partial(group_advantage, scale=scale) for scale in ("group", "none", "batch")} | {"rloo": rloo_advantage}
LOOPS = {"group": oracles.group_advantage, "none": partial(oracles.group_advantage, scaled=False), "rloo": oracles.rloo_advantage}
every_estimator = pytest.mark.parametrize("name", sorted(ESTIMATORS))


def rewards_and_valid(seed, cases, most=6):
    rng = np.random.default_rng(seed)
    rewards = rng.random((cases, most))
    rewards[::3] = np.round(rewards[::3])
    rewards[::11] = rewards[::11, :1]
    valid = rng.random((cases, most)) < rng.choice([0.3, 0.9, 1.0], (cases, 1))
    return np.where(valid, rewards, np.nan), valid


@every_estimator
def test_2_000_ragged_cases_agree_with_the_loop(name):
    size = 5 if name == "batch" else 2_000
    loop = oracles.batch_advantage if name == "batch" else partial(rows, LOOPS[name])
    case = rewards_and_valid(4, 2_000)
    parts = [[part[start : start + size] for part in case] for start in range(0, 2_000, size)]
    agree(np.concatenate([ESTIMATORS[name](*tensors(*part)) for part in parts]), np.concatenate([loop(*part) for part in parts]))


@given(st.sampled_from(sorted(ESTIMATORS)), st.floats(0, 1, width=32), st.integers(1, 17), st.sampled_from([32, 64]))
def test_equal_rewards_give_exactly_zero(name, reward, n, bits):
    rewards = torch.full((2, n), reward, dtype={32: torch.float32, 64: torch.float64}[bits])
    assert ESTIMATORS[name](rewards, None).abs().sum() == 0
    nudged = rewards.clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.full_like(nudged[0, 0], 2.0)) if reward > 0 else 0.0
    assert ESTIMATORS[name](nudged, None).abs().sum() == 0


@every_estimator
def test_degenerate_groups(name):
    one_unit_apart_below_the_smallest_normal_number = torch.tensor([[2.8026e-45, 1.4013e-45], [1.4013e-45, 1.4013e-45]])
    assert ESTIMATORS[name](one_unit_apart_below_the_smallest_normal_number, None).abs().sum() == 0
    rewards = torch.tensor([[1.0, float("nan"), 0.0, float("inf")], [float("nan")] * 4, [0.5, 0.1, 0.2, 0.3]])
    valid = torch.tensor([[True, False, True, False], [False] * 4, [True, False, False, False]])
    advantage = ESTIMATORS[name](rewards, valid)
    assert advantage[~valid].tolist() == [0.0] * int((~valid).sum())
    assert advantage[2].tolist() == [0.0] * 4  # one valid rollout
    assert advantage[0, 0] > 0 > advantage[0, 2]
    counts = torch.tensor([[1.0, float("nan")]])
    assert ESTIMATORS[name](counts, None).isnan().all()
    assert ESTIMATORS[name](counts, torch.ones(1, 2, dtype=torch.bool)).isnan().all()


def test_batch_moments_of_parts_add_up():
    rewards, valid = tensors(*rewards_and_valid(6, 8))
    together = batch_moments(rewards[:3], valid[:3]) + batch_moments(rewards[3:], valid[3:])
    mean, std = batch_std(together)
    torch.testing.assert_close(mean, rewards[valid].mean())
    torch.testing.assert_close(std, rewards[valid].std())
    whole = group_advantage(rewards, valid, scale="batch")
    parts = [group_advantage(rewards[i], valid[i], scale="batch", moments=together) for i in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_precision():
    rewards = torch.rand(2, 4).bfloat16()
    assert torch.equal(group_advantage(rewards), group_advantage(rewards.float()))
