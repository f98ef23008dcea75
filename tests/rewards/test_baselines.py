"""The neighbours as stages of a strategy: that each is handed the right things; their mathematics is tested under functional."""

import pytest
import torch

from lightning_focal.functional import (
    criterion_moments,
    diva_weights,
    dvao_advantage,
    gd2po_advantage,
    gdpo_advantage,
    item_response_reward,
    mo_grpo_weights,
    probit_difficulty,
    sa_mrpo_weights,
    saw_weights,
    softmin_advantage,
)
from lightning_focal.rewards import (
    DivaWeighting,
    DvaoAdvantage,
    FocalReward,
    Gate,
    Gd2poAdvantage,
    GdpoAdvantage,
    GroupAdvantage,
    ItemResponse,
    MoGrpoWeighting,
    SaMrpoAdvantage,
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


BY_KEY = torch.tensor([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (SawWeighting(), lambda s, w, m: saw_weights(s, w, m, BY_KEY, 4)),
        (MoGrpoWeighting(), mo_grpo_weights),
        (DivaWeighting(0.05), lambda s, w, m: diva_weights(s, w, m, 0.05)),
    ],
)
def test_weightings_are_handed_scores_base_and_mask(weighting, expected):
    weights = StaticReward(weighting=weighting).shape(SCORES).weights
    torch.testing.assert_close(weights, expected(SCORES.scores, SCORES.weights, SCORES.mask))


def test_sa_mrpo_gd2po_and_rrt():
    shaped = StaticReward(advantage=SaMrpoAdvantage(gamma=0.7)).shape(SCORES)
    moved = sa_mrpo_weights(SCORES.scores, SCORES.weights, SCORES.mask, 0.7, BY_KEY, 4)
    torch.testing.assert_close(shaped.advantages, gdpo_advantage(SCORES.scores, moved, SCORES.mask))
    torch.testing.assert_close(shaped.weights, SCORES.weights)
    shaped = StaticReward(advantage=Gd2poAdvantage(0.6)).shape(SCORES)
    torch.testing.assert_close(shaped.advantages, gd2po_advantage(SCORES.scores, SCORES.weights, SCORES.mask, 0.6))
    assert 0 < (shaped.advantages != 0).sum() < shaped.valid.sum()
    difficulty = probit_difficulty(criterion_moments(SCORES.scores, SCORES.mask, BY_KEY, 4))[BY_KEY]
    for rule, expected in (
        (ItemResponse(), difficulty),
        (ItemResponse({"a": 0.5, "x": 0.5}), difficulty * torch.tensor([[0.0, 1.0], [0.0, 1.0]])),  # by name and by key
    ):
        rewards = StaticReward(reward=rule).shape(SCORES).rewards
        abilities = item_response_reward(SCORES.scores, SCORES.weights, SCORES.mask, difficulty=expected)
        torch.testing.assert_close(rewards, abilities)


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
        (lambda: DivaWeighting(0.0), "`epsilon` must be > 0, got 0.0"),
        (lambda: SaMrpoAdvantage(-1.0), "`gamma` must be >= 0, got -1.0"),
        (lambda: Gd2poAdvantage(2.0), r"`agreement` must be in \[0, 1\], got 2.0"),
        (lambda: ItemResponse({"a": 1.0}), r"`pass_rates` must be in \(0, 1\), got {'a': 1.0}"),
        (lambda: SoftMinAdvantage(k=0), "`k` must be > 0, got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
