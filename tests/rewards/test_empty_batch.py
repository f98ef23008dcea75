"""A process that was given no prompt: every strategy goes through its motions, and logs what the others log."""

import pytest
import torch

from lightning_focal import rewards
from lightning_focal.callbacks import ScoredRollouts
from lightning_focal.callbacks.held_out import prompt_scores
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.modules.loss import step_normaliser
from lightning_focal.modules.measures import BatchMeasures
from lightning_focal.modules.update import Sequences, Update
from lightning_focal.rubrics import Criterion, Rubric
from tests.helpers import make_prompts, make_rollouts

RUBRIC = Rubric(tuple(Criterion(name, f"Says {name}.", check={"kind": "regex", "pattern": name}) for name in "ab"))

RUBRICS = {
    "static": rewards.StaticReward,
    "uniform": lambda: rewards.StaticReward(weights="uniform"),
    "group": rewards.FocalReward,
    "batch": lambda: rewards.FocalReward(scope="batch"),
    "running": lambda: rewards.FocalReward(scope="running", decay=0.6),
    "batch scale": lambda: rewards.FocalReward(scope="running", advantage=rewards.GroupAdvantage(scale="batch")),
    "saw": lambda: rewards.StaticReward(weighting=rewards.SawWeighting()),
    "gate": lambda: rewards.StaticReward(reward=rewards.Gate(["a", "u"])),
    "gdpo": lambda: rewards.StaticReward(advantage=rewards.GdpoAdvantage()),
    "dvao": lambda: rewards.StaticReward(advantage=rewards.DvaoAdvantage()),
    "rvpo": lambda: rewards.StaticReward(advantage=rewards.SoftMinAdvantage()),
    "gd2po": lambda: rewards.StaticReward(advantage=rewards.Gd2poAdvantage()),
    "sa-mrpo": lambda: rewards.StaticReward(advantage=rewards.SaMrpoAdvantage()),
    "rrt": lambda: rewards.StaticReward(reward=rewards.ItemResponse()),
    "mo-grpo": lambda: rewards.StaticReward(weighting=rewards.MoGrpoWeighting()),
    "diva": lambda: rewards.StaticReward(weighting=rewards.DivaWeighting()),
    "pow3r": lambda: rewards.StaticReward(weighting=rewards.Pow3rWeighting()),
    "dropout": lambda: rewards.StaticReward(weighting=rewards.RubricDropout(least=1)),
    "standardised": lambda: rewards.StandardisedFocalReward(informedness=0.5, patience=1, mix=0.7),
}
STRATEGIES = RUBRICS | {
    "rrt of rates": lambda: rewards.StaticReward(reward=rewards.ItemResponse({"a": 0.3})),
    "co-rewarding-I": rewards.CoRewardingI,
    "co-rewarding-II": lambda: rewards.CoRewardingII(format=0.5),
    "majority": rewards.MajorityVoteReward,
    "certainty": rewards.SelfCertaintyReward,
    "entropy": rewards.EntropyReward,
    "gold": rewards.GroundTruthReward,
}


class Anybody:
    """A policy that answers with as many empty responses as it is asked for."""

    group_size = 4

    def roll_out(self, prompts, stage, *, group_size=None, teacher=False):
        return rollouts_of(prompts)

    def certainty(self, rollouts):
        return {name: torch.ones(rollouts.truncated.shape) for name in ("self_certainty", "entropy")}


def rollouts_of(prompts):
    return make_rollouts(prompts, 4, texts=((r"a \boxed{1}",) * 4,) * len(prompts))


def prompts_of(count):
    return make_prompts(
        count, rubrics=(RUBRIC,) * count, answers=("1",) * count, questions=("q",) * count, views=tuple(range(count))
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_prompts(name):
    measured = []
    for count in (2, 0):
        strategy = STRATEGIES[name]()
        for source in (strategy.source, strategy.held_out):
            source.bind(Anybody())
        rollouts = rollouts_of(prompts_of(count))
        scores = strategy.score(rollouts)
        strategy.observe(scores)
        shaped = strategy.shape(scores)
        assert shaped.advantages.shape == (count, 4)
        keys = strategy.source.level_keys() or ["a", "b"]
        measured.append(BatchMeasures("train", keys).add(rollouts, scores, shaped).compute())
    answers = ScoredRollouts("train", 0, rollouts, scores, shaped)
    assert rollout_rows(answers, 0) == []
    assert prompt_scores(answers) == {}
    sequences = Sequences.of(rollouts, shaped)
    assert len(sequences) == 0
    assert list(sequences.chunks(4)) == list(sequences.chunks(4, 100)) == []
    assert float(step_normaliser(sequences, Update(), lambda x: x).sum()) == 0
    assert list(measured[0]) == list(measured[1])
    assert all(value != value or value == 0 for value in measured[1].values())  # nothing was seen: NaN, or a count of 0
