"""Static weights that are given, and arguments; the rubric's own and uniform ones against a loop: test_focal.py, gamma 0."""

import pytest
import torch

from lightning_focal.rewards import FocalReward, RlooAdvantage, StaticReward
from tests.helpers import make_scores


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
