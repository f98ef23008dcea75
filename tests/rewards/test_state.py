"""What a strategy remembers, who changes it, and how it comes back from a checkpoint."""

import io

import pytest
import torch

from lightning_focal.rewards import FocalReward, StaticReward
from tests.helpers import make_scores
from tests.rewards.test_scopes import FIRST, SECOND, THIRD, levels, same

SCOPES = ["group", "batch", "running"]


def frozen(strategy):
    """The state as bytes-equal plain data."""
    state = strategy.state_dict()
    return {k: v.nan_to_num(-1).tolist() if isinstance(v, torch.Tensor) else v for k, v in state.items()}


@pytest.mark.parametrize("scope", SCOPES)
def test_shape_changes_no_state(scope):
    strategy = FocalReward(scope=scope)
    empty = frozen(strategy)
    strategy.shape(FIRST)
    assert frozen(strategy) == empty
    strategy.observe(FIRST)
    seen = frozen(strategy)
    assert seen != empty
    for scores in (FIRST, SECOND, THIRD):
        strategy.shape(scores)
    assert frozen(strategy) == seen


@pytest.mark.parametrize("scope", SCOPES)
def test_shape_twice_gives_the_same(scope):
    strategy = FocalReward(scope=scope)
    strategy.observe(FIRST)
    one, two = strategy.shape(SECOND), strategy.shape(SECOND)
    assert torch.equal(one.advantages, two.advantages)
    assert torch.equal(one.weights, two.weights)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("scope", SCOPES)
def test_resumed_in_the_middle_gives_the_same_trajectory_to_the_last_bit(scope):
    def make():
        return FocalReward(scope=scope, decay=0.7, warmup=1)

    batches = [FIRST, SECOND, THIRD, SECOND, FIRST]
    whole, trajectory = make(), []
    for scores in batches:
        whole.observe(scores)
        trajectory.append(whole.shape(scores))
    first = make()
    for scores in batches[:2]:
        first.observe(scores)
        first.shape(scores)
    resumed = make()
    resumed.shape(FIRST)
    resumed.load_state_dict(through_a_file(first.state_dict()))
    same(levels(resumed), levels(first))
    held_out, expected = resumed.shape(FIRST), first.shape(FIRST)  # before the next batch is observed
    assert torch.equal(held_out.weights, expected.weights)
    for scores, wanted in zip(batches[2:], trajectory[2:], strict=True):
        resumed.observe(scores)
        got = resumed.shape(scores)
        for name in ("rewards", "advantages", "weights", "saturation"):
            assert torch.equal(getattr(got, name), getattr(wanted, name)), name
    assert frozen(resumed) == frozen(whole)


def test_keys_that_were_announced_in_another_order():
    one, two = FocalReward(scope="running"), FocalReward(scope="running")
    one.observe(FIRST)
    two._register(["z", "c", "b", "a"])
    two.load_state_dict(one.state_dict())
    same(levels(two), {**levels(one), "z": float("nan")})
    two.observe(SECOND)
    one.observe(SECOND)
    same(levels(two), {**levels(one), "z": float("nan")})


@pytest.mark.parametrize("scope", SCOPES)
def test_loading_replaces_what_was_there(scope):
    one, two = FocalReward(scope=scope), FocalReward(scope=scope)
    one.observe(FIRST)
    two.observe(THIRD)
    two.level_of("b")  # a cached level must not survive
    two.load_state_dict(one.state_dict())
    same(levels(two), {**levels(one), "d": float("nan")})
    assert two.batches == 1


def test_state_is_a_copy():
    strategy = FocalReward(scope="running")
    strategy.observe(FIRST)
    state = strategy.state_dict()
    before = state["running"].clone()
    strategy.observe(SECOND)
    assert torch.equal(state["running"], before)


def test_an_empty_state_comes_back():
    strategy = FocalReward()
    strategy.load_state_dict(through_a_file(FocalReward().state_dict()))
    assert strategy.batches == 0
    assert strategy.keys == {}


def test_a_checkpoint_of_another_strategy_is_refused():
    """The Trainer would only warn and start cold."""
    written = {"callbacks": {FocalReward().state_key: FocalReward().state_dict()}}
    FocalReward().on_load_checkpoint(None, None, written)
    with pytest.raises(ValueError, match=r"written with.*focal.FocalReward, this run uses.*static.StaticReward"):
        StaticReward().on_load_checkpoint(None, None, written)
    StaticReward().on_load_checkpoint(None, None, {"callbacks": {"ModelCheckpoint": {}}})


def test_another_strategys_state_is_refused():
    strategy = StaticReward()
    with pytest.raises(ValueError, match=r"checkpoint was written with.*focal.FocalReward, this run uses.*static.StaticReward"):
        strategy.load_state_dict(FocalReward().state_dict())
    assert strategy.batches == 0


def test_saturation_is_that_of_the_last_batch():
    strategy = FocalReward(temperature=float("inf"))
    strategy.observe(make_scores([[[1.0, 0.0]]]))
    strategy.observe(make_scores([[[0.5, 0.25]]]))
    assert strategy.saturation.compute().tolist() == [0.5, 0.25]
    assert strategy.saturation.names == ("a", "b")
