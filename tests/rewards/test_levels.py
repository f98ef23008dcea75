"""How saturated each criterion is over batches: by hand, against a loop, and back from a checkpoint.

An infinite temperature makes every level a plain mean.
"""

import io
import math

import numpy as np
import pytest
import torch

from lightning_focal.rewards import FocalReward, StaticReward
from lightning_focal.rubrics import read_rows
from lightning_focal.types import CriterionScores
from tests import oracles
from tests.conftest import write_rows
from tests.helpers import make_scores

MEAN, NAN = float("inf"), float("nan")
SCOPES = ["group", "batch", "running"]
pooled_scopes = pytest.mark.parametrize("scope", ["batch", "running"])

# Two prompts; "a" is shared, "b" and "c" come and go.
FIRST = make_scores([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]], names=(("a", "b"), ("a", "c")))  # a 3/8, b 1/4, c 1
SECOND = make_scores([[[1.0, None], [1.0, None]], [[0.5, 0.0], [0.5, 0.5]]], names=(("a",), ("a", "c")))  # a 3/4, c 1/4, no b
THIRD = make_scores([[[None, 1.0], [None, 0.5]], [[None, 0.0], [None, None]]], names=(("a", "b"), ("a", "d")))  # b 3/4, d 0


def observed(strategy, *batches):
    for scores in batches:
        strategy.observe(scores)
    return strategy


def levels(strategy):
    return {key: strategy.level_of(key) for key in strategy.keys}


def same(got, expected):
    assert set(got) == set(expected)
    for key, level in expected.items():
        assert got[key] == pytest.approx(level, abs=1e-9, nan_ok=True), key


def test_group_scope_forgets_and_keeps_the_precision():
    single = CriterionScores(FIRST.scores.float(), FIRST.mask, FIRST.weights.float(), FIRST.names)
    assert observed(FocalReward(), single).shape(single).weights.dtype == torch.float32
    assert observed(FocalReward(temperature=MEAN), FIRST).shape(SECOND).saturation.tolist() == [[1.0, 0.0], [0.5, 0.25]]


@pooled_scopes
def test_one_key_and_keys_never_seen(scope):
    scores = make_scores([[[1.0], [0.5]]])
    strategy = observed(FocalReward(temperature=MEAN, scope=scope), scores)
    assert strategy.level_of("a") == 0.75
    assert strategy.shape(scores).saturation.tolist() == [[0.75]]
    assert math.isnan(strategy.level_of("nobody"))
    strategy = FocalReward(temperature=MEAN, scope=scope)
    assert strategy.shape(FIRST).saturation.tolist() == [[3 / 8, 1 / 4], [3 / 8, 1.0]]  # nothing observed: the batch at hand
    shaped = observed(strategy, FIRST).shape(make_scores([[[1.0, 0.5]]], names=(("a", "new"),)))
    assert shaped.saturation.tolist() == [[3 / 8, 0.5]]  # "new" has the level of its own group


def test_levels_are_kept_per_axis():
    tags = ((("axis:tone",), ("level:example", "axis:tone")), (("axis:tone",), ()))
    scores = make_scores([[[1.0, 0.0]], [[0.5, 0.25]]], names=(("kind", "warm"), ("calm", "short")), tags=tags)
    strategy = observed(FocalReward(temperature=MEAN, scope="batch"), scores)
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


@pooled_scopes
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
            applies = batch.mask[p].any(0).numpy()[: len(keys)]
            base = np.where(applies, weights[p, : len(keys)], 0.0)
            base = base / base.sum() if base.sum() else base
            row = oracles.focal_weights(np.array([wanted.get(key, 0.0) for key in keys]), base, applies)
            np.testing.assert_allclose(shaped.weights[p, : len(keys)].numpy(), row, atol=1e-6)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("scope", SCOPES)
def test_loading_replaces_what_was_there_and_finds_keys_in_another_order(scope):
    one, two = observed(FocalReward(scope=scope), FIRST), FocalReward(scope=scope)
    two.learn_keys(["z", "c", "b", "a"])
    observed(two, THIRD).load_state_dict(one.state_dict())
    assert two.batches == 1
    for _ in range(2):
        same(levels(two), {**levels(one), "z": NAN, "d": NAN})
        observed(one, SECOND)
        observed(two, SECOND)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_state_with_sums_and_average_apart_still_loads(scope):
    """As every strategy wrote it before its levels were one tensor."""
    one = observed(FocalReward(scope=scope), FIRST)
    state = one.state_dict() | {"projected": torch.tensor([1.5, 0.5, 2.0, 0.0]), "judged": torch.tensor([4.0, 2.0, 2.0, 0.0])}
    state |= {"keys": ["a", "b", "c", "d"], "running": torch.tensor([0.1, 0.2, NAN, 0.3], dtype=torch.float64)}
    del state["levels"]
    two = FocalReward(scope=scope)
    two.load_state_dict(through_a_file(state))
    batch = {"a": 3 / 8, "b": 1 / 4, "c": 1.0, "d": NAN}
    same(levels(two), {"a": 0.1, "b": 0.2, "c": NAN, "d": 0.3} if scope == "running" else batch)


def test_a_state_is_a_copy_and_may_be_empty():
    strategy = observed(FocalReward(scope="running"), FIRST)
    state = strategy.state_dict()
    before = state["levels"].clone()
    observed(strategy, SECOND)
    assert torch.equal(state["levels"], before)
    strategy = FocalReward()
    strategy.load_state_dict(through_a_file(FocalReward().state_dict()))
    assert (strategy.batches, strategy.keys) == (0, {})


def test_a_checkpoint_of_another_strategy_is_refused():
    """The Trainer would only warn and start cold."""
    state, strategy = FocalReward().state_dict(), StaticReward()
    written = {"callbacks": {FocalReward().state_key: state}}
    FocalReward().on_load_checkpoint(None, None, written)
    for load in (lambda: strategy.on_load_checkpoint(None, None, written), lambda: strategy.load_state_dict(state)):
        with pytest.raises(
            ValueError, match=r"checkpoint was written with.*focal.FocalReward, this run uses.*static.StaticReward"
        ):
            load()
    strategy.on_load_checkpoint(None, None, {"callbacks": {"ModelCheckpoint": {}}})


@pooled_scopes
def test_criteria_of_different_texts_have_levels_of_their_own(tmp_path, scope):
    """No text recurs in another prompt: levels over the batch are those of the groups, though the names are logged together."""
    rubrics = [
        [f"The response provide a detailed explanation of the {thing}.", f"Gives worked example {i}."]
        for i, thing in enumerate(["clay structures", "RCNN framework"])
    ]
    entries = [[{"criterion": text, "points": 10} for text in texts] for texts in rubrics]
    rows = [{"data_source": "rar", "prompt": "Q", "reward_model": {"style": "rubric", "rubrics": of_row}} for of_row in entries]
    names = [row.rubric.names for row in read_rows(write_rows(tmp_path / "rows.jsonl", rows))]
    met = torch.tensor([[[1.0, 0], [1, 1], [1, 0], [1, 1]], [[0, 0], [0, 1], [0, 0], [0, 1]]])
    weights = []
    for tags in ((), ((("pool:rar-untagged",),) * 2,) * 2):
        scores = CriterionScores(met, met > -1, torch.full((2, 2), 0.5), tuple(names), tags)
        weights += [observed(FocalReward(gamma=3.0, scope=one), scores).shape(scores).weights for one in ("group", scope)]
    for one in weights:
        torch.testing.assert_close(one, weights[0])
    assert weights[0][0, 0] < 0.01 < 0.9 < weights[0][1, 0]
