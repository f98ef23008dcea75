"""A process that was given no prompt: every strategy goes through its motions, and logs what the others log."""

from dataclasses import fields

import pytest
import torch

from lightning_focal.callbacks import Answers
from lightning_focal.callbacks.held_out import prompt_scores
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.modules.measures import BatchMeasures
from lightning_focal.modules.update import Sequences, Update, step_normaliser
from lightning_focal.rewards import (
    CoRewardingI,
    CoRewardingII,
    DvaoAdvantage,
    EntropyReward,
    FocalReward,
    Gate,
    GdpoAdvantage,
    GroundTruthReward,
    GroupAdvantage,
    MajorityVoteReward,
    SawWeighting,
    SelfCertaintyReward,
    SoftMinAdvantage,
    StaticReward,
)
from lightning_focal.rubrics import Criterion, Rubric
from tests.helpers import make_prompts, make_rollouts

RUBRIC = Rubric(tuple(Criterion(name, f"Says {name}.", check={"kind": "regex", "pattern": name}) for name in "ab"))

STRATEGIES = {
    "static": StaticReward,
    "focal": lambda: FocalReward(scope="running"),
    "batch": lambda: FocalReward(scope="batch"),
    "batch scale": lambda: StaticReward(advantage=GroupAdvantage(scale="batch")),
    "saw": lambda: StaticReward(weighting=SawWeighting()),
    "gate": lambda: StaticReward(reward=Gate(["a"])),
    "gdpo": lambda: StaticReward(advantage=GdpoAdvantage()),
    "dvao": lambda: StaticReward(advantage=DvaoAdvantage()),
    "rvpo": lambda: StaticReward(advantage=SoftMinAdvantage()),
    "co-rewarding-I": CoRewardingI,
    "co-rewarding-II": lambda: CoRewardingII(format=0.5),
    "majority": MajorityVoteReward,
    "certainty": SelfCertaintyReward,
    "entropy": EntropyReward,
    "gold": GroundTruthReward,
}


class Anybody:
    """A policy that answers with as many empty responses as it is asked for."""

    group_size = 4

    def roll_out(self, prompts, stage, *, group_size=None, teacher=False):
        return rollouts_of(prompts)

    def certainty(self, rollouts):
        return {name: torch.ones(rollouts.truncated.shape) for name in ("self_certainty", "entropy")}


def rollouts_of(prompts):
    p = len(prompts)
    return make_rollouts(prompts, 4, texts=((r"a \boxed{1}",) * 4,) * p)


def prompts_of(count):
    prompts = make_prompts(count, rubrics=(RUBRIC,) * count, answers=("1",) * count)
    columns = {field.name: getattr(prompts, field.name) for field in fields(prompts)}
    return type(prompts)(**columns | {"questions": ("q",) * count, "views": tuple(range(count))})


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
    answers = Answers("train", 0, rollouts, scores, shaped)
    assert rollout_rows(answers, 0) == []
    assert prompt_scores(answers) == {}
    sequences = Sequences.of(rollouts, shaped)
    assert len(sequences) == 0
    assert list(sequences.chunks(4)) == list(sequences.chunks(4, 100)) == []
    assert float(step_normaliser(sequences, Update(), lambda x: x).sum()) == 0
    assert list(measured[0]) == list(measured[1])
    assert all(value != value or value == 0 for value in measured[1].values())  # nothing was seen: NaN, or a count of 0
