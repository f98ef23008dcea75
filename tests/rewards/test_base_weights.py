import pytest
import torch

from lightning_focal.rewards import FocalReward, StaticReward
from lightning_focal.types import CriterionScores

ONE = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
SCORES = CriterionScores(ONE, ONE >= 0, torch.tensor([[0.9, 0.1]]), (("short", "polite"),), ((("axis:brevity",), ()),))


def test_given_by_name_and_by_key():
    assert StaticReward(weights={"brevity": 3.0, "polite": 1.0}).shape(SCORES).rewards.tolist() == [[0.75, 0.25]]
    assert StaticReward(weights={"short": 1.0, "brevity": 9.0, "polite": 1.0}).shape(SCORES).rewards.tolist() == [[0.5, 0.5]]


def test_given_weights_move_under_focal():
    weights = FocalReward(gamma=1.0, weights={"short": 1.0, "polite": 0.0}).shape(SCORES).weights
    assert weights.tolist() == [[1.0, 0.0]]


def test_a_criterion_without_a_weight_is_named():
    with pytest.raises(
        ValueError, match="no weight for the criterion 'polite', nor for its key 'polite'; it names \\['short'\\]"
    ):
        StaticReward(weights={"short": 1.0}).shape(SCORES)


@pytest.mark.parametrize("weights", [{}, {"short": 0.0}, {"short": -1.0}, {"short": float("inf")}, "priors"])
def test_what_is_no_choice_is_refused(weights):
    with pytest.raises(ValueError, match="`weights` must"):
        StaticReward(weights=weights)


def test_a_missing_weight_is_noticed_before_training(run_tiny):
    with pytest.raises(ValueError, match="no weight for the criterion 'letter', nor for its key 'content'"):
        run_tiny(StaticReward(weights={"brevity": 1.0, "shouts": 1.0}))
