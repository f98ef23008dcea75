"""Focal Reward, one group at a time, against plain loops and by hand; static weights that are given."""

import numpy as np
import pytest
import torch

from lightning_focal import rewards as rw
from lightning_focal.judges import Outcome, Verdict
from lightning_focal.rewards import FocalReward, RlooAdvantage, StaticReward
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.types import CriterionScores
from tests import oracles
from tests.helpers import FAILED, MET, NOT_APPLICABLE, NOT_MET, TableJudge, make_prompts, make_rollouts, make_scores

SCOPES = ["group", "batch", "running"]


def ragged(seed, prompts=60):
    """Float64 scores with NaN wherever they do not count."""
    scores, weights, mask = oracles.ragged_batch(np.random.default_rng(seed), prompts)
    names = tuple(tuple("abcde"[: int((row > 0).sum())]) for row in weights)
    return CriterionScores(torch.from_numpy(scores), torch.from_numpy(mask), torch.from_numpy(weights), names)


def loop(scores, gamma, temperature, epsilon, uniform, scaled):
    """Weights, saturation, rewards and advantages, prompt by prompt."""
    result = {name: [] for name in ("weights", "saturation", "rewards", "static", "advantages", "valid")}
    for s, m, prior in zip(scores.scores.numpy(), scores.mask.numpy(), scores.weights.numpy(), strict=True):
        applies = m.any(0)
        base = np.where(applies, 1.0 if uniform else prior, 0.0)
        base = base / base.sum() if base.sum() else base
        levels = oracles.saturation(s, base, m, temperature)
        weights = oracles.focal_weights(levels, base, applies, gamma, epsilon)
        rewards, valid = oracles.static_reward(s, weights, m), m.any(1)
        advantages = oracles.group_advantage(rewards, valid, scaled=scaled)
        for name, row in zip(
            result, (weights, levels, rewards, oracles.static_reward(s, base, m), advantages, valid), strict=True
        ):
            result[name].append(row)
    return {name: torch.from_numpy(np.array(rows)) for name, rows in result.items()}


@pytest.mark.parametrize("weights", ["prior", "uniform"])
@pytest.mark.parametrize("scale", ["none", "group"])
@pytest.mark.parametrize(("gamma", "temperature", "epsilon"), [(3.0, 1.0, 0.05), (1.0, 0.1, 0.2), (0.0, 1.0, 0.05)])
def test_equals_the_loop(weights, scale, gamma, temperature, epsilon):
    scores = ragged(seed=round(10 * gamma))
    shaped = rw.FocalReward(gamma, temperature, epsilon, weights=weights, advantage=rw.GroupAdvantage(scale)).shape(scores)
    for name, expected in loop(scores, gamma, temperature, epsilon, weights == "uniform", scale == "group").items():
        torch.testing.assert_close(getattr(shaped, name), expected, rtol=0, atol=1e-6, msg=name)
    if gamma == 0:  # static weights
        static = rw.StaticReward(weights=weights).shape(scores)
        for name in ("weights", "rewards", "static"):
            assert torch.equal(getattr(shaped, name), getattr(static, name)), name


# -- what does not count ----------------------------------------------------------------------------------------------------


def test_judged_on_nothing_that_weighs_is_invalid():
    # "note" has no points. Rollout 1 could not be judged on "main": a reward of 0 would punish a broken judge.
    scores = make_scores([[[1.0, 1.0], [None, 1.0], [0.5, 0.0]]], [[1.0, 0.0]], names=(("main", "note"),))
    shaped = rw.FocalReward(advantage=rw.GroupAdvantage(scale="none")).shape(scores)
    assert shaped.valid.tolist() == [[True, False, True]]
    assert shaped.advantages.tolist() == [[0.25, 0.0, -0.25]]
    # where every criterion weighs the same it was judged on something
    assert rw.FocalReward(weights="uniform").shape(scores).valid.all()


CHECK = {"kind": "x"}
RUBRIC = Rubric(
    (
        Criterion("right", "", 2, check=CHECK),
        Criterion("rude", "", -1, check=CHECK),
        Criterion("tone", "", 1, low=1, high=5, check=CHECK),
    )
)
FOUR, ONE = Verdict(Outcome.GRADED, 4.0), Verdict(Outcome.GRADED, 1.0)


def shaped_from(*rows, **arguments):
    texts = tuple(f"response {i}" for i in range(len(rows)))
    table = {(t, name): v for t, row in zip(texts, rows, strict=True) for name, v in zip(RUBRIC.names, row, strict=True)}
    strategy = rw.FocalReward(judge=TableJudge(table), **arguments)
    scores = strategy.score(make_rollouts(make_prompts(1, [RUBRIC]), len(rows), texts=(texts,)))
    return scores, strategy.shape(scores)


@pytest.mark.parametrize("verdict", [MET, FAILED, NOT_APPLICABLE])
def test_faults_grades_and_judgements_that_failed_by_hand(verdict):
    # the fault "rude" could not be judged in rollout 0: neither praise (1) nor blame (0), but (0.5 + 0.1875) / 0.75
    scores, shaped = shaped_from((MET, verdict, FOUR), (NOT_MET, NOT_MET, ONE), gamma=0.0)
    assert scores.scores.tolist() == [[[1.0, 0.0, 0.75], [0.0, 1.0, 0.0]]]
    assert scores.mask.tolist() == [[[True, verdict is MET, True], [True, True, True]]]
    assert shaped.weights.tolist() == [[0.5, 0.25, 0.25]]
    assert shaped.rewards[0].tolist() == pytest.approx([0.6875 / (1 if verdict is MET else 0.75), 0.25])
    assert bool(scores.failed.any()) == (verdict is FAILED)
    assert shaped.valid.all()


# -- bounds, warm-up, arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bounds", "scores", "expected"), [
    # one of three could not be judged for the second prompt: still weights, not multiples
    ((0.2, 0.8), make_scores([[[1.0, 0.0, 0.0]] * 2, [[1.0, 0.0, None]] * 2]), [[0.2, 0.4, 0.4], [0.2, 0.8, 0.0]]),
    # rubrics of different lengths: multiples
    (
        (0.5, 2.0),
        make_scores([[[1.0, 0.0, 0.0]], [[1.0, 0.0, None]]], names=(("a", "b", "c"), ("a", "b"))),
        [[0.5 / 3, 1.25 / 3, 1.25 / 3], [0.25, 0.75, 0.0]],
    ),
])  # fmt: skip
def test_bounds_hold(bounds, scores, expected):
    weights = rw.FocalReward(bounds=bounds).shape(scores).weights
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_standardised_focal_is_focal_weights_on_z_scores():
    scores = ragged(seed=11)
    arguments = {"gamma": 0.5, "scope": "batch", "mix": 0.7}
    shaped = rw.StandardisedFocalReward(mix=0.7).shape(scores)
    plain = rw.FocalReward(**arguments, advantage=rw.GdpoAdvantage()).shape(scores)
    for name in ("weights", "advantages"):
        assert torch.equal(getattr(shaped, name), getattr(plain, name))
    levels = rw.FocalReward(scope="batch").shape(scores).saturation.numpy()
    applies, base = scores.mask.any(1).numpy(), shaped.weights.numpy().copy()
    for p in range(len(base)):
        of = np.where(applies[p], scores.weights[p].numpy(), 0.0)
        of = of / of.sum() if of.sum() else of
        base[p] = 0.7 * oracles.focal_weights(levels[p], of, applies[p], 0.5) + 0.3 * of
    np.testing.assert_allclose(shaped.weights.numpy(), base, rtol=0, atol=1e-6)
    expected = oracles.gdpo(scores.scores.numpy(), base, scores.mask.numpy())
    np.testing.assert_allclose(shaped.advantages.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_warmup_counts_training_batches(scope):
    scores = make_scores([[[1.0, 0.0], [1.0, 1.0]]])
    strategy, focal = rw.FocalReward(warmup=2, scope=scope), rw.FocalReward().shape(scores)
    assert torch.equal(strategy.shape(scores).weights, scores.weights)  # the held-out score before training
    for _ in range(2):
        strategy.observe(scores)
        shaped = strategy.shape(scores)
        assert torch.equal(shaped.weights, scores.weights)
        assert torch.equal(shaped.rewards, shaped.static)
        torch.testing.assert_close(shaped.saturation, focal.saturation)  # measured all the same
    strategy.observe(scores)
    torch.testing.assert_close(strategy.shape(scores).weights, focal.weights)


def test_weights_given_by_name_or_by_axis(run_tiny):
    tags = (((), ("axis:x",), ("axis:x",)), ((),))
    scores = make_scores([[[1.0, 0.0, 0.5]], [[1.0, None, None]]], names=(("a", "b", "c"), ("b",)), tags=tags)
    shaped = StaticReward(weights={"a": 2.0, "x": 1.0, "b": 5.0}).shape(scores)
    assert shaped.weights.tolist() == [[0.25, 0.625, 0.125], [1.0, 0.0, 0.0]]  # a name before its axis
    assert shaped.rewards.tolist() == [[0.3125], [1.0]]
    assert FocalReward(weights={"a": 1.0, "x": 0.0, "b": 1.0}).shape(scores).weights[0, 2] == 0
    with pytest.raises(ValueError, match=r"no weight for the criterion 'c', nor for its key 'x'; it names \['a', 'b'\]"):
        StaticReward(weights={"a": 2.0, "b": 1.0}).shape(scores)
    with pytest.raises(ValueError, match="no weight for the criterion 'letter', nor for its key 'content'"):
        run_tiny(StaticReward(weights={"brevity": 1.0, "shouts": 1.0}))  # noticed before training


def test_saturation_is_measured_but_changes_nothing():
    scores = make_scores([[[1.0, 0.0], [1.0, 1.0]]])
    strategy = StaticReward()
    before = strategy.shape(scores)
    for _ in range(3):
        strategy.observe(scores)
    after = strategy.shape(scores)
    # softmax(0.5, 1) puts 0.622459 on the second rollout
    torch.testing.assert_close(after.saturation, torch.tensor([[1.0, 0.622459]], dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.equal(before.rewards, after.rewards)
    assert strategy.level_of("b") == pytest.approx(0.622459, abs=1e-6)


def test_an_advantage_is_exactly_zero_where_not_valid():
    class Restless(RlooAdvantage):
        def __call__(self, scores, weights, rewards, valid):
            return torch.ones_like(rewards)

    shaped = StaticReward(advantage=Restless()).shape(make_scores([[[1.0], [None], [0.0]]]))
    assert shaped.advantages.tolist() == [[1.0, 0.0, 1.0]]
