import math

import pytest
import torch

from lightning_focal.rewards import (
    DvaoAdvantage,
    FocalReward,
    Gate,
    GdpoAdvantage,
    SawWeighting,
    SoftMinAdvantage,
    StaticReward,
    TokenChoice,
    TokenChoiceScores,
    WorstOf,
)
from lightning_focal.types import CriterionScores, Prompts, Rollouts


def _scores(values, weights, tags=()):
    scores = torch.tensor(values)
    names = tuple(tuple("abcdefgh"[: scores.shape[2]]) for _ in range(scores.shape[0]))
    return CriterionScores(scores, torch.ones_like(scores, dtype=torch.bool), torch.tensor(weights), names, tags)


ONE = ([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]], [[0.75, 0.25]])


def test_worst_of_is_the_minimum():
    assert StaticReward(reward=WorstOf()).shape(_scores(*ONE)).rewards.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_gate_by_name_and_by_tag():
    by_name = StaticReward(reward=Gate(["b"])).shape(_scores(*ONE)).rewards
    assert by_name.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    tags = ((("axis:x",), ("axis:y",)),)
    by_tag = StaticReward(reward=Gate(["axis:x"])).shape(_scores(*ONE, tags)).rewards
    assert by_tag.tolist() == [[0.75, 1.0, 0.0, 0.75]]


def test_gdpo_by_hand():
    advantage = StaticReward(advantage=GdpoAdvantage()).shape(_scores(*ONE)).advantages
    # z of a: mean 3/4, unbiased std 1/2; z of b: mean 1/4, std 1/2; weighted, then divided by the unbiased std over the batch
    raw = [0.75 * (a - 0.75) / 0.5 + 0.25 * (b - 0.25) / 0.5 for a, b in ((1, 0), (1, 1), (0, 0), (1, 0))]
    std = math.sqrt(sum(x * x for x in raw) / 3)
    torch.testing.assert_close(advantage, torch.tensor([[x / std for x in raw]]), atol=1e-5, rtol=0)


def test_dvao_by_hand():
    advantage = StaticReward(advantage=DvaoAdvantage()).shape(_scores(*ONE)).advantages
    std = math.sqrt(3) / 4  # population, both criteria
    raw = [(0.75 * (a - 0.75) + 0.25 * (b - 0.25)) / std for a, b in ((1, 0), (1, 1), (0, 0), (1, 0))]
    torch.testing.assert_close(advantage, torch.tensor([raw]), atol=1e-6, rtol=0)


def test_softmin_takes_no_notice_of_weights():
    first = StaticReward(advantage=SoftMinAdvantage(k=2.0)).shape(_scores(*ONE)).advantages
    second = StaticReward(weights="uniform", advantage=SoftMinAdvantage(k=2.0)).shape(_scores(*ONE)).advantages
    assert torch.equal(first, second)


def test_saw_by_hand():
    weights = StaticReward(weighting=SawWeighting()).shape(_scores(*ONE)).weights
    cv_a, cv_b = (math.sqrt(3) / 4) / 0.75, (math.sqrt(3) / 4) / 0.25
    total = 0.75 * cv_a + 0.25 * cv_b
    torch.testing.assert_close(weights, torch.tensor([[0.75 * cv_a / total, 0.25 * cv_b / total]]), atol=1e-6, rtol=0)


def test_focal_dvao_uses_focal_weights():
    focal = FocalReward(gamma=2.0, advantage=DvaoAdvantage()).shape(_scores(*ONE))
    static = StaticReward(advantage=DvaoAdvantage()).shape(_scores(*ONE))
    assert not torch.allclose(focal.advantages, static.advantages)
    same = StaticReward(advantage=DvaoAdvantage()).shape(_scores(ONE[0], focal.weights.tolist()))
    torch.testing.assert_close(focal.advantages, same.advantages)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalReward(reward=WorstOf()), "FocalWeighting would be lost: `reward: WorstOf`"),
        (lambda: StaticReward(reward=WorstOf(), advantage=GdpoAdvantage()), "`reward: WorstOf` would be lost: GdpoAdvantage"),
        (lambda: FocalReward(advantage=SoftMinAdvantage()), "FocalWeighting would be lost: SoftMinAdvantage"),
        (lambda: Gate([]), "`required` must name"),
        (lambda: SoftMinAdvantage(k=0.0), "`k` must be > 0"),
    ],
)
def test_combinations_without_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_weighted_softmin_goes_with_focal():
    assert FocalReward(advantage=SoftMinAdvantage(weighted=True)).shape(_scores(*ONE)).advantages.shape == (1, 4)


def test_token_choices_by_hand():
    source = TokenChoiceScores([TokenChoice("x", 0, 5, 8, points=3.0), TokenChoice("y", 1, 0, 2), TokenChoice("z", 7, 0, 2)])
    rollouts = Rollouts(
        Prompts(("q",), (({"role": "user", "content": "q"},),)),
        (("", ""),),
        torch.ones(1, 1, dtype=torch.int64),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[[5, 1], [8, 0]]]),
        torch.tensor([[[True, True], [True, False]]]),
        torch.zeros(1, 2, dtype=torch.bool),
    )
    scores = source(rollouts)
    assert scores.scores.tolist() == [[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]  # a token behind the end meets nothing
    torch.testing.assert_close(scores.weights, torch.tensor([[0.6, 0.2, 0.2]]))
    assert source.level_keys() == ["x", "y", "z"]


def test_token_choice_refuses_empty_ranges():
    with pytest.raises(ValueError, match="0 <= `first` < `last`"):
        TokenChoice("x", 0, 5, 5)
    with pytest.raises(ValueError, match="unique names"):
        TokenChoiceScores([TokenChoice("x", 0, 0, 1), TokenChoice("x", 1, 0, 1)])
