"""The neighbours as stages of a strategy: that each is handed the right things; their mathematics is tested under functional."""

import pytest
import torch

from lightning_focal import functional as fn
from lightning_focal import rewards as rw
from tests.helpers import make_scores

TAGS = ((("safety",), ()), (("axis:x",), ("safety",)))
SCORES = make_scores(
    [[[0.0, 1.0], [0.5, 0.75], [None, None]], [[1.0, 0.5], [1.0, None], [0.25, 1.0]]], names=(("a", "b"), ("c", "d")), tags=TAGS
)


@pytest.mark.parametrize(("reward", "rewards"), [
    (rw.WorstOf(), [[0.0, 0.5, 0.0], [0.5, 1.0, 0.25]]),
    # "a" and "d" bear the tag: the mean times their score, where it was judged
    (rw.Gate(["safety"]), [[0.0, 0.3125, 0.0], [0.375, 1.0, 0.625]]),
    (rw.Gate(["c"]), [[0.5, 0.625, 0.0], [0.75, 1.0, 0.15625]]),
])  # fmt: skip
def test_worst_of_and_gates_by_name_and_by_tag(reward, rewards):
    shaped = rw.StaticReward(reward=reward).shape(SCORES)
    assert shaped.rewards.tolist() == rewards
    assert shaped.advantages[0, 2] == 0


@pytest.mark.parametrize("make", [rw.StaticReward, rw.FocalReward])
@pytest.mark.parametrize(("advantage", "function", "arguments"), [
    (rw.GdpoAdvantage(), fn.gdpo_advantage, {}),
    (rw.GdpoAdvantage(batch_scale=False), fn.gdpo_advantage, {"batch_scale": False}),
    (rw.DvaoAdvantage(), fn.dvao_advantage, {}),
    (rw.SoftMinAdvantage(k=2.0, weighted=True), fn.softmin_advantage, {"k": 2.0, "weighted": True}),
])  # fmt: skip
def test_advantages_are_handed_scores_weights_and_mask(make, advantage, function, arguments):
    shaped = make(advantage=advantage).shape(SCORES)
    assert torch.equal(shaped.weights, SCORES.weights) == (make is rw.StaticReward)
    torch.testing.assert_close(shaped.advantages, function(SCORES.scores, shaped.weights, SCORES.mask, **arguments))
    assert shaped.advantages[0, 2] == 0
    assert shaped.advantages[0, :2].abs().min() > 0


BY_KEY = torch.tensor([[0, 1], [2, 3]])


@pytest.mark.parametrize(("weighting", "expected"), [
    (rw.SawWeighting(), lambda s, w, m: fn.saw_weights(s, w, m, BY_KEY, 4)),
    (rw.MoGrpoWeighting(), fn.mo_grpo_weights),
    (rw.DivaWeighting(0.05), lambda s, w, m: fn.diva_weights(s, w, m, 0.05)),
])  # fmt: skip
def test_weightings_are_handed_scores_base_and_mask(weighting, expected):
    weights = rw.StaticReward(weighting=weighting).shape(SCORES).weights
    torch.testing.assert_close(weights, expected(SCORES.scores, SCORES.weights, SCORES.mask))


def test_sa_mrpo_gd2po_and_rrt():
    shaped = rw.StaticReward(advantage=rw.SaMrpoAdvantage(gamma=0.7)).shape(SCORES)
    moved = fn.sa_mrpo_weights(SCORES.scores, SCORES.weights, SCORES.mask, 0.7, BY_KEY, 4)
    torch.testing.assert_close(shaped.advantages, fn.gdpo_advantage(SCORES.scores, moved, SCORES.mask))
    torch.testing.assert_close(shaped.weights, SCORES.weights)
    shaped = rw.StaticReward(advantage=rw.Gd2poAdvantage(0.6)).shape(SCORES)
    torch.testing.assert_close(shaped.advantages, fn.gd2po_advantage(SCORES.scores, SCORES.weights, SCORES.mask, 0.6))
    assert 0 < (shaped.advantages != 0).sum() < shaped.valid.sum()
    difficulty = fn.probit_difficulty(fn.criterion_moments(SCORES.scores, SCORES.mask, BY_KEY, 4))[BY_KEY]
    for rule, expected in (
        (rw.ItemResponse(), difficulty),
        (rw.ItemResponse({"a": 0.5, "x": 0.5}), difficulty * torch.tensor([[0.0, 1.0], [0.0, 1.0]])),  # by name and by key
    ):
        rewards = rw.StaticReward(reward=rule).shape(SCORES).rewards
        abilities = fn.item_response_reward(SCORES.scores, SCORES.weights, SCORES.mask, difficulty=expected)
        torch.testing.assert_close(rewards, abilities)


def test_what_was_judged_on_nothing_that_weighs_is_no_part_of_the_batch():
    """ "b" has no weight, and the last two rollouts were judged on it alone."""
    scores = make_scores([[[1.0, None], [0.0, None], [None, 1.0], [None, 0.0]]], weights=[[1.0, 0.0]])
    shaped = rw.StaticReward(advantage=rw.GdpoAdvantage()).shape(scores)
    assert shaped.valid.tolist() == [[True, True, False, False]]
    # z = +-0.5 / sqrt(0.5) = +-0.7071, whose unbiased std is 1
    assert shaped.advantages.tolist() == [pytest.approx([0.70711, -0.70711, 0.0, 0.0], abs=1e-4)]


def test_what_was_judged_on_nothing_that_a_weighting_left_is_no_part_of_the_baseline():
    """ "b" never varies: SAW takes its weight, and the last rollout, judged on it alone, has no reward."""
    scores = make_scores([[[1.0, 1.0], [0.0, 1.0], [1.0, None], [None, 1.0]]])
    shaped = rw.StaticReward(weighting=rw.SawWeighting(), advantage=rw.GroupAdvantage(scale="none")).shape(scores)
    assert shaped.weights.tolist() == [[1.0, 0.0]]
    assert shaped.valid.tolist() == [[True, True, True, False]]
    assert shaped.advantages.tolist() == [pytest.approx([1 / 3, -2 / 3, 1 / 3, 0.0])]
