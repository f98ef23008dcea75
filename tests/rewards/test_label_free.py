"""The strategies: from answers to advantages, by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from lightning_focal import rewards as rw
from lightning_focal.callbacks import EMATeacher
from tests.helpers import FakeTrainer, make_prompts
from tests.rewards.answering import ScriptedAnswerer, answered

STRATEGIES = {
    rw.CoRewardingI: rw.PairVotes,
    rw.CoRewardingII: rw.TeacherVotes,
    rw.CoRewardingIII: rw.PairedTeacherVotes,
    rw.MajorityVoteReward: rw.OwnVotes,
    rw.SelfCertaintyReward: rw.SelfCertainty,
    rw.EntropyReward: rw.NegativeEntropy,
    rw.GroundTruthReward: rw.GoldAnswers,
}
MODULE = SimpleNamespace(group_size=4)


def shaped(strategy, rollouts):
    scores = strategy.score(rollouts)
    strategy.observe(scores)
    return strategy.shape(scores)


# half: +-0.5 / (sqrt(2/7) + 1e-6); one of eight: 7/8 and -1/8 over (sqrt(1/8) + 1e-6)
HALF, ONE = [0.935413] * 4 + [-0.935413] * 4, [2.474867] + [-0.353552] * 7


def test_four_right_of_eight_and_one_right_of_eight():
    half, one = ["1"] * 4 + ["2", "3", "4", "5"], ["9", *map(str, range(7))]
    result = shaped(rw.GroundTruthReward("string"), answered(half, one, answers=("1", "9")))
    assert result.advantages.tolist() == [pytest.approx(HALF, abs=1e-6), pytest.approx(ONE, abs=1e-6)]
    voted = shaped(rw.MajorityVoteReward("string"), answered(half, one))  # a tie of eight: the first seen
    assert torch.equal(voted.advantages, result.advantages)


def test_labels_of_the_other_wording_and_of_the_teacher_reach_the_advantages():
    result = shaped(rw.CoRewardingI("string"), answered(["1"] * 4 + ["2"] * 4, ["2"] * 7 + ["1"], pairs=True))
    # the label of x is what x' voted: 2, and the other way round; each side is normalised by itself
    assert result.advantages.tolist() == [pytest.approx(HALF[::-1], abs=1e-6), pytest.approx(ONE[::-1], abs=1e-6)]
    strategy = rw.CoRewardingII(teacher_rollouts=3, equivalence="string")
    strategy.source.bind(ScriptedAnswerer(["2", "2", "1"]))
    assert shaped(strategy, answered(["1"] * 7 + ["2"])).advantages[0].tolist() == pytest.approx(ONE[::-1], abs=1e-6)
    strategy = rw.CoRewardingIII(teacher_rollouts=3, equivalence="string")
    strategy.source.bind(ScriptedAnswerer(["1", "1", "9"], ["2", "9", "2"]))
    result = shaped(strategy, answered(["1"] * 4 + ["2"] * 4, ["2"] * 7 + ["1"], pairs=True))
    assert result.advantages.tolist() == [pytest.approx(HALF[::-1], abs=1e-6), pytest.approx(ONE[::-1], abs=1e-6)]


def test_a_group_without_a_label_leaves_the_others_alone_and_keeps_its_form():
    result = shaped(rw.MajorityVoteReward("string"), answered([None, None, None], ["1", "1", "2"]))
    assert result.valid.tolist() == [[False] * 3, [True] * 3]
    assert result.advantages.tolist() == [[0, 0, 0], pytest.approx([0.577349, 0.577349, -1.154699], abs=1e-5)]
    assert result.weights.tolist() == [[0.0], [1.0]]
    nobody = rw.GroundTruthReward("string")
    assert not shaped(nobody, answered([None, ""])).valid.any()
    assert math.isnan(nobody.level_of("correct"))  # no vote at all
    truncated = torch.tensor([[True, False]])
    result = shaped(rw.MajorityVoteReward("string", length=0.5), answered([None, None], truncated=truncated))
    assert result.valid.all()
    assert result.weights.tolist() == [[0.0, 1.0]]
    assert result.advantages.tolist() == [pytest.approx([-0.7071, 0.7071], abs=1e-4)]


def test_format_and_length_weigh_what_they_are_given():
    strategy = rw.MajorityVoteReward("string", format=0.5, length=0.5)
    result = shaped(strategy, answered(["1", "1", None], truncated=torch.tensor([[False, True, False]])))
    assert result.weights.tolist() == [[0.5, 0.25, 0.25]]
    assert result.rewards.tolist() == [[1.0, 0.75, 0.25]]
    assert strategy.keys == {"agreement": 0, "format": 1, "length": 2}
    uniform = shaped(rw.MajorityVoteReward("string", format=0.5, weights="uniform"), answered(["1", "1", None]))
    assert uniform.weights.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("kind", STRATEGIES)
def test_every_strategy(kind):
    own = {"weights": "uniform", "temperature": 0.5, "scope": "running", "decay": 0.5, "warmup": 3}
    strategy = kind(
        equivalence="string", format=0.25, length=0.125, weighting=rw.FocalWeighting(), advantage=rw.GroupAdvantage("none"), **own
    )
    assert type(strategy.source) is STRATEGIES[kind]
    assert strategy.source.kind == "string"
    assert strategy.source.rubric.prior_weights == pytest.approx([8 / 11, 2 / 11, 1 / 11])
    assert isinstance(strategy.weighting, rw.FocalWeighting)
    assert {name: getattr(strategy, name) for name in own} == own
    assert strategy.advantage.scale == "none"
    # held-out prompts are measured against gold
    scores = kind(format=0.5).score(answered(["1/2", "2"], ["7", "7"], answers=("0.5", None)), "val")
    assert scores.names == (("correct",), ("correct",))  # accuracy and nothing else
    assert scores.scores[0].flatten().tolist() == [1, 0]
    assert scores.mask[..., 0].tolist() == [[True, True], [False, False]]
    with pytest.raises(ValueError, match=r"`model.group_size` must be at least 2"):
        kind().setup(FakeTrainer(callbacks=[EMATeacher()]), SimpleNamespace(group_size=1), "fit")


def data(**splits):
    return SimpleNamespace(splits=lambda: splits)


def test_what_training_needs_is_asked_for_in_setup():
    strategy, single = rw.CoRewardingII(), make_prompts(2)
    with pytest.raises(ValueError, match=r"needs a teacher: add one to `trainer.callbacks`") as caught:
        strategy.setup(FakeTrainer(callbacks=[Callback()]), MODULE, "fit")
    assert "class_path: lightning_focal.callbacks.EMATeacher" in str(caught.value)
    strategy.setup(FakeTrainer(callbacks=[EMATeacher()]), MODULE, "fit")
    assert strategy.source.answerer is MODULE
    rw.CoRewardingII().setup(FakeTrainer(), MODULE, "validate")
    voted = rw.MajorityVoteReward(format=0.5)
    voted.setup(FakeTrainer(), MODULE, "fit")
    assert (voted.stage_keys("train"), voted.stage_keys("val")) == (["agreement", "format"], ["correct"])
    with pytest.raises(ValueError, match=r"write `data.pairs: true`"):
        rw.CoRewardingI().setup(FakeTrainer(datamodule=data(train=single)), MODULE, "fit")
    paired = make_prompts(2, questions=("a", "a"), views=(0, 1))
    rw.CoRewardingI().setup(FakeTrainer(datamodule=data(train=paired, val=single)), MODULE, "fit")
    with pytest.raises(ValueError, match=r"2 of 2 prompts have no gold answer .* train without labels"):
        rw.GroundTruthReward().setup(FakeTrainer(datamodule=data(train=single)), MODULE, "fit")
