"""Saturation over a batch and over a run, by hand: an infinite temperature makes every level a plain mean."""

import math

import numpy as np
import pytest
import torch

from lightning_focal.rewards import FocalReward, StaticReward
from lightning_focal.types import CriterionScores
from tests import oracles
from tests.helpers import make_scores

MEAN = float("inf")

# Two prompts; "a" is shared, "b" and "c" come and go.
FIRST = make_scores([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]], names=(("a", "b"), ("a", "c")))  # a 3/8, b 1/4, c 1
SECOND = make_scores([[[1.0, None], [1.0, None]], [[0.5, 0.0], [0.5, 0.5]]], names=(("a",), ("a", "c")))  # a 3/4, c 1/4, no b
THIRD = make_scores([[[None, 1.0], [None, 0.5]], [[None, 0.0], [None, None]]], names=(("a", "b"), ("a", "d")))  # b 3/4, d 0


def levels(strategy):
    return {key: strategy.level_of(key) for key in strategy.keys}


def same(got, expected):
    assert set(got) == set(expected)
    for key, level in expected.items():
        assert got[key] == pytest.approx(level, abs=1e-9, nan_ok=True), key


def test_batch_levels_by_hand():
    strategy = FocalReward(gamma=1.0, epsilon=0.5, temperature=MEAN, scope="batch")
    strategy.observe(FIRST)
    same(levels(strategy), {"a": 3 / 8, "b": 1 / 4, "c": 1.0})
    shaped = strategy.shape(FIRST)
    assert shaped.saturation.tolist() == [[3 / 8, 1 / 4], [3 / 8, 1.0]]
    # d = (9/8, 10/8) and (9/8, 4/8)
    torch.testing.assert_close(shaped.weights, torch.tensor([[9 / 19, 10 / 19], [9 / 13, 4 / 13]], dtype=torch.float64))
    strategy.observe(SECOND)
    same(levels(strategy), {"a": 3 / 4, "b": math.nan, "c": 1 / 4})
    strategy.observe(THIRD)
    same(levels(strategy), {"a": math.nan, "b": 3 / 4, "c": math.nan, "d": 0.0})


def test_running_levels_by_hand():
    strategy = FocalReward(gamma=1.0, epsilon=0.5, temperature=MEAN, scope="running", decay=0.75)
    strategy.observe(FIRST)
    same(levels(strategy), {"a": 3 / 8, "b": 1 / 4, "c": 1.0})  # a first level is not blended with anything
    strategy.observe(SECOND)
    a, c = 0.75 * 3 / 8 + 0.25 * 3 / 4, 0.75 + 0.25 / 4
    same(levels(strategy), {"a": a, "b": 1 / 4, "c": c})  # "b" was away: its level stays
    shaped = strategy.shape(SECOND)
    assert shaped.saturation[:, 0].tolist() == pytest.approx([a, a])
    assert shaped.saturation[1, 1].item() == pytest.approx(c)
    assert shaped.saturation[0, 1] == 0  # padding
    strategy.observe(THIRD)
    same(levels(strategy), {"a": a, "b": 0.75 / 4 + 0.25 * 3 / 4, "c": c, "d": 0.0})  # "a" was there but not judged
    assert strategy.batches == 3


def test_group_scope_forgets():
    strategy = FocalReward(temperature=MEAN)
    strategy.observe(FIRST)
    assert strategy.shape(SECOND).saturation.tolist() == [[1.0, 0.0], [0.5, 0.25]]


@pytest.mark.parametrize("scope", ["batch", "running"])
def test_one_key_alone(scope):
    scores = make_scores([[[1.0], [0.5]]])
    strategy = FocalReward(temperature=MEAN, scope=scope)
    strategy.observe(scores)
    assert strategy.level_of("a") == 0.75
    assert strategy.shape(scores).saturation.tolist() == [[0.75]]
    assert math.isnan(strategy.level_of("nobody"))


@pytest.mark.parametrize("scope", ["batch", "running"])
def test_without_anything_observed_the_batch_at_hand_is_pooled(scope):
    shaped = FocalReward(temperature=MEAN, scope=scope).shape(FIRST)
    assert shaped.saturation.tolist() == [[3 / 8, 1 / 4], [3 / 8, 1.0]]


@pytest.mark.parametrize("scope", ["batch", "running"])
def test_a_key_never_seen_has_the_level_of_its_own_group(scope):
    strategy = FocalReward(temperature=MEAN, scope=scope)
    strategy.observe(FIRST)
    shaped = strategy.shape(make_scores([[[1.0, 0.5]]], names=(("a", "new"),)))
    assert shaped.saturation.tolist() == [[3 / 8, 0.5]]


def test_levels_are_kept_per_axis():
    tags = ((("axis:tone",), ("level:example", "axis:tone")), (("axis:tone",), ()))
    scores = make_scores([[[1.0, 0.0]], [[0.5, 0.25]]], names=(("kind", "warm"), ("calm", "short")), tags=tags)
    strategy = FocalReward(temperature=MEAN, scope="batch")
    strategy.observe(scores)
    same(levels(strategy), {"tone": 0.5, "short": 0.25})
    assert strategy.shape(scores).saturation.tolist() == [[0.5, 0.5], [0.5, 0.25]]


def pooled(scores, temperature):
    above, below = {}, {}
    for s, w, m, keys in zip(scores.scores.numpy(), scores.weights.numpy(), scores.mask.numpy(), scores.keys, strict=True):
        base = np.where(m.any(0), w, 0.0)
        projected, judged = oracles.projection_sums(s, base / base.sum() if base.sum() else base, m, temperature)
        for c, key in enumerate(keys):
            above[key] = above.get(key, 0.0) + projected[c]
            below[key] = below.get(key, 0.0) + judged[c]
    return {key: above[key] / below[key] for key in above if below[key] > 0}


@pytest.mark.parametrize("scope", ["batch", "running"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_random_ragged_batches_equal_the_loop(scope, temperature):
    rng = np.random.default_rng(3)
    strategy, running = FocalReward(scope=scope, temperature=temperature, decay=0.6), {}
    for _ in range(8):
        scores, weights, mask = oracles.ragged_batch(rng, 7)
        names = tuple(tuple(rng.choice(list("uvwxyz"), int((row > 0).sum()), replace=False)) for row in weights)
        batch = CriterionScores(torch.from_numpy(scores), torch.from_numpy(mask), torch.from_numpy(weights), names)
        strategy.observe(batch)
        expected = pooled(batch, temperature)
        running |= {k: 0.6 * running[k] + 0.4 * level if k in running else level for k, level in expected.items()}
        wanted = running if scope == "running" else expected
        same({k: v for k, v in levels(strategy).items() if not math.isnan(v)}, wanted)
        shaped = strategy.shape(batch)
        for p, keys in enumerate(batch.keys):
            levels_of_row = np.array([wanted.get(key, 0.0) for key in keys])
            applies = batch.mask[p].any(0).numpy()[: len(keys)]
            base = np.where(applies, weights[p, : len(keys)], 0.0)
            base = base / base.sum() if base.sum() else base
            row = oracles.focal_weights(levels_of_row, base, applies)
            np.testing.assert_allclose(shaped.weights[p, : len(keys)].numpy(), row, atol=1e-6)


def test_padding_wider_than_the_rubric_changes_nothing():
    wide = make_scores([[[1.0, 0.0, None], [0.5, 0.5, None]]], names=(("a", "b"),))
    narrow = make_scores([[[1.0, 0.0], [0.5, 0.5]]])
    for scope in ("group", "batch", "running"):
        one, two = FocalReward(scope=scope), FocalReward(scope=scope)
        one.observe(wide)
        two.observe(narrow)
        assert torch.equal(one.shape(wide).weights[:, :2], two.shape(narrow).weights)
        assert torch.equal(one.shape(wide).advantages, two.shape(narrow).advantages)


def test_float32_batches():
    half = FIRST.scores.to(torch.float32)
    scores = CriterionScores(half, FIRST.mask, FIRST.weights.float(), FIRST.names)
    strategy = FocalReward(scope="running")
    strategy.observe(scores)
    assert strategy.shape(scores).weights.dtype == torch.float32
    assert StaticReward().shape(scores).rewards.dtype == torch.float32
