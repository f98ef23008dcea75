"""The controlled problem: known starting rates."""

import pytest
import torch

from lightning_focal.rewards import NINE_CHOICES, StaticReward, TokenChoice, TokenChoiceScores
from tests.helpers import make_prompts, make_rollouts


def rollouts(ids, mask=None):
    ids = torch.tensor(ids)
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.tensor(mask)
    p, g, t = ids.shape
    return make_rollouts(make_prompts(p), g, tokens=t, response_ids=ids, response_mask=mask)


def test_tokens_are_met_by_range():
    source = TokenChoiceScores([TokenChoice("low", 0, 0, 10, points=3.0), TokenChoice("high", 1, 200, 259)])
    scores = source(rollouts([[[9, 199], [10, 200]], [[0, 258], [0, 200]]], [[[True, True]] * 2, [[True, True], [True, False]]]))
    assert scores.scores.tolist() == [[[1, 0], [0, 1]], [[1, 1], [1, 0]]]
    assert scores.weights.tolist() == [[0.75, 0.25]] * 2
    assert scores.mask.all()
    assert source.level_keys() == ["low", "high"]


def test_a_short_response_meets_nothing_behind_its_end():
    source = TokenChoiceScores([TokenChoice("first", 0, 0, 259), TokenChoice("sixth", 5, 0, 259)])
    assert source(rollouts([[[1, 2]]])).scores.tolist() == [[[1.0, 0.0]]]


def test_rates_of_a_uniform_policy():
    expected = {
        "r90": 0.90,
        "r80": 0.80,
        "r65": 0.65,
        "r50": 0.50,
        "r35": 0.35,
        "r20": 0.20,
        "r10": 0.10,
        "r05": 0.05,
        "r02": 0.02,
    }
    assert {c.name: round((c.last - c.first) / 259, 2) for c in NINE_CHOICES} == expected
    # every id at every position: the rates by counting
    source = TokenChoiceScores()
    scores = source(rollouts([[[i] * 6 for i in range(259)]])).scores[0]
    assert [round(rate, 2) for rate in scores.mean(0).tolist()] == list(expected.values())


def test_a_strategy_takes_it_as_source():
    strategy = StaticReward(source=TokenChoiceScores())
    strategy.source.validate(make_prompts())
    shaped = strategy.shape(strategy.score(rollouts([[[0] * 6, [258] * 6]])))
    assert shaped.rewards[0, 0] > shaped.rewards[0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenChoice("x", -1, 0, 1), "'x': `position` must be >= 0"),
        (lambda: TokenChoice("x", 0, 5, 5), "0 <= `first` < `last`, got 0, 5, 5"),
        (lambda: TokenChoice("x", 0, 0, 1, points=0.0), "'x': `points` must be > 0, got 0.0"),
        (lambda: TokenChoiceScores([]), "`choices` must have unique names and at least one entry, got \\[\\]"),
        (lambda: TokenChoiceScores([TokenChoice("x", 0, 0, 1)] * 2), r"got \['x', 'x'\]"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
