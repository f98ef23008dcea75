"""The neighbours as stages of a strategy: that each is handed the right things; their mathematics is tested under functional."""

import pytest
import torch

from lightning_focal.functional import dvao_advantage, gdpo_advantage, saw_weights, softmin_advantage
from lightning_focal.rewards import (
    DvaoAdvantage,
    FocalReward,
    Gate,
    GdpoAdvantage,
    GroupAdvantage,
    SawWeighting,
    SoftMinAdvantage,
    StaticReward,
    WorstOf,
)
from tests.helpers import make_scores

TAGS = ((("safety",), ()), (("axis:x",), ("safety",)))
SCORES = make_scores(
    [[[0.0, 1.0], [0.5, 0.75], [None, None]], [[1.0, 0.5], [1.0, None], [0.25, 1.0]]], names=(("a", "b"), ("c", "d")), tags=TAGS
)


@pytest.mark.parametrize(
    ("reward", "rewards"),
    [
        (WorstOf(), [[0.0, 0.5, 0.0], [0.5, 1.0, 0.25]]),
        # "a" and "d" bear the tag: the mean times their score, where it was judged
        (Gate(["safety"]), [[0.0, 0.3125, 0.0], [0.375, 1.0, 0.625]]),
        (Gate(["c"]), [[0.5, 0.625, 0.0], [0.75, 1.0, 0.15625]]),
    ],
)
def test_worst_of_and_gates_by_name_and_by_tag(reward, rewards):
    shaped = StaticReward(reward=reward).shape(SCORES)
    assert shaped.rewards.tolist() == rewards
    assert shaped.advantages[0, 2] == 0


@pytest.mark.parametrize("make", [StaticReward, FocalReward])
@pytest.mark.parametrize(
    ("advantage", "function", "arguments"),
    [
        (GdpoAdvantage(), gdpo_advantage, {}),
        (GdpoAdvantage(batch_scale=False), gdpo_advantage, {"batch_scale": False}),
        (DvaoAdvantage(), dvao_advantage, {}),
        (SoftMinAdvantage(k=2.0, weighted=True), softmin_advantage, {"k": 2.0, "weighted": True}),
    ],
)
def test_advantages_are_handed_scores_weights_and_mask(make, advantage, function, arguments):
    shaped = make(advantage=advantage).shape(SCORES)
    assert torch.equal(shaped.weights, SCORES.weights) == (make is StaticReward)
    torch.testing.assert_close(shaped.advantages, function(SCORES.scores, shaped.weights, SCORES.mask, **arguments))
    assert shaped.advantages[0, 2] == 0
    assert shaped.advantages[0, :2].abs().min() > 0


def test_saw_pools_by_key():
    weights = StaticReward(weighting=SawWeighting()).shape(SCORES).weights
    torch.testing.assert_close(
        weights, saw_weights(SCORES.scores, SCORES.weights, SCORES.mask, torch.tensor([[0, 1], [2, 3]]), 4)
    )


def test_what_was_judged_on_nothing_that_weighs_is_no_part_of_the_batch():
    """ "b" has no weight, and the last two rollouts were judged on it alone."""
    scores = make_scores([[[1.0, None], [0.0, None], [None, 1.0], [None, 0.0]]], weights=[[1.0, 0.0]])
    shaped = StaticReward(advantage=GdpoAdvantage()).shape(scores)
    assert shaped.valid.tolist() == [[True, True, False, False]]
    # z = +-0.5 / sqrt(0.5) = +-0.7071, whose unbiased std is 1
    assert shaped.advantages.tolist() == [pytest.approx([0.70711, -0.70711, 0.0, 0.0], abs=1e-4)]


def test_what_was_judged_on_nothing_that_a_weighting_left_is_no_part_of_the_baseline():
    """ "b" never varies: SAW takes its weight, and the last rollout, judged on it alone, has no reward."""
    scores = make_scores([[[1.0, 1.0], [0.0, 1.0], [1.0, None], [None, 1.0]]])
    shaped = StaticReward(weighting=SawWeighting(), advantage=GroupAdvantage(scale="none")).shape(scores)
    assert shaped.weights.tolist() == [[1.0, 0.0]]
    assert shaped.valid.tolist() == [[True, True, True, False]]
    assert shaped.advantages.tolist() == [pytest.approx([1 / 3, -2 / 3, 1 / 3, 0.0])]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalReward(reward=WorstOf()), "FocalWeighting would be lost: `reward: WorstOf`"),
        (
            lambda: FocalReward(advantage=SoftMinAdvantage()),
            "FocalWeighting would be lost: SoftMinAdvantage weighs all criteria alike",
        ),
        (lambda: FocalReward(reward=Gate(["a"]), advantage=DvaoAdvantage()), "`reward: Gate` would be lost: DvaoAdvantage"),
        (lambda: Gate([]), "`required` must name at least one criterion or tag"),
        (lambda: SoftMinAdvantage(k=0), "`k` must be > 0, got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
