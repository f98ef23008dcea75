"""The strategies: from answers to advantages, by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from lightning_focal.rewards import (
    CoRewardingI,
    CoRewardingII,
    EntropyReward,
    FocalWeighting,
    GoldAnswers,
    GroundTruthReward,
    GroupAdvantage,
    MajorityVoteReward,
    NegativeEntropy,
    OwnVotes,
    PairVotes,
    SelfCertainty,
    SelfCertaintyReward,
    TeacherVotes,
)
from tests.helpers import FakeTrainer, make_prompts
from tests.rewards.answering import ScriptedAnswerer, answered

STRATEGIES = {
    CoRewardingI: PairVotes,
    CoRewardingII: TeacherVotes,
    MajorityVoteReward: OwnVotes,
    SelfCertaintyReward: SelfCertainty,
    EntropyReward: NegativeEntropy,
    GroundTruthReward: GoldAnswers,
}


def shaped(strategy, rollouts):
    scores = strategy.score(rollouts)
    strategy.observe(scores)
    return scores, strategy.shape(scores)


def rounds(tensor, digits=6):
    return [[round(value, digits) for value in row] for row in tensor.tolist()]


# -- advantages by hand -----------------------------------------------------------------------------------------------------


def test_four_right_of_eight_and_one_right_of_eight():
    half, one = ["1"] * 4 + ["2", "3", "4", "5"], ["9", *map(str, range(7))]
    # half: +-0.5 / (sqrt(2/7) + 1e-6); one: 7/8 and -1/8 over (sqrt(1/8) + 1e-6)
    _, result = shaped(GroundTruthReward("string"), answered(half, one, answers=("1", "9")))
    assert result.advantages[0].tolist() == pytest.approx([0.935413] * 4 + [-0.935413] * 4, abs=1e-6)
    assert result.advantages[1].tolist() == pytest.approx([2.474867] + [-0.353552] * 7, abs=1e-6)
    _, voted = shaped(MajorityVoteReward("string"), answered(half, one))  # a tie of eight: the first seen
    assert torch.equal(voted.advantages, result.advantages)


def test_swapped_labels_reach_the_advantages():
    _, result = shaped(CoRewardingI("string"), answered(["1"] * 4 + ["2"] * 4, ["2"] * 7 + ["1"], pairs=True))
    # the label of x is what x' voted: 2, and the other way round; each side is normalised by itself
    assert result.advantages[0].tolist() == pytest.approx([-0.935413] * 4 + [0.935413] * 4, abs=1e-6)
    assert result.advantages[1].tolist() == pytest.approx([-0.353552] * 7 + [2.474867], abs=1e-6)


def test_the_teachers_vote_reaches_the_students_advantages():
    strategy = CoRewardingII(teacher_rollouts=3, equivalence="string")
    strategy.source.bind(ScriptedAnswerer(["2", "2", "1"]))
    _, result = shaped(strategy, answered(["1"] * 7 + ["2"]))
    assert result.advantages[0].tolist() == pytest.approx([-0.353552] * 7 + [2.474867], abs=1e-6)


@pytest.mark.parametrize("kind", [SelfCertaintyReward, EntropyReward])
def test_a_straight_line_leaves_advantages_as_they_are(kind):
    nats = [[12.0, 14.5, 13.25, 20.0]] if kind is SelfCertaintyReward else [[0.5, 0.25, 2.0, 1.0]]
    strategy = kind(equivalence="string")
    strategy.source.bind(ScriptedAnswerer(self_certainty=nats, entropy=nats))
    _, result = shaped(strategy, answered(["1", "2", "3", "4"]))
    raw = torch.tensor(nats, dtype=torch.float64)[0] * (1 if kind is SelfCertaintyReward else -1)
    expected = (raw - raw.mean()) / raw.std()
    assert result.advantages[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


# -- degenerate groups ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [MajorityVoteReward("string"), GroundTruthReward("string")])
def test_no_vote_at_all_is_no_update(strategy):
    _, result = shaped(strategy, answered([None, ""], [None, None]))
    assert not result.valid.any()
    assert result.advantages.tolist() == result.rewards.tolist() == [[0, 0], [0, 0]]
    assert result.weights.tolist() == [[0.0], [0.0]]
    assert math.isnan(strategy.level_of(next(iter(strategy.keys))))


def test_a_group_without_a_label_leaves_the_others_alone():
    _, result = shaped(MajorityVoteReward("string"), answered([None, None, None], ["1", "1", "2"]))
    assert result.valid.tolist() == [[False] * 3, [True] * 3]
    assert result.advantages[0].tolist() == [0, 0, 0]
    assert result.advantages[1].tolist() == pytest.approx([0.577349, 0.577349, -1.154699], abs=1e-5)


def test_without_a_label_format_and_length_still_speak():
    truncated = torch.tensor([[True, False]])
    _, result = shaped(MajorityVoteReward("string", length=0.5), answered([None, None], truncated=truncated))
    assert result.valid.all()
    assert result.weights.tolist() == [[0.0, 1.0]]
    assert rounds(result.advantages, 4) == [[-0.7071, 0.7071]]


# -- weights ----------------------------------------------------------------------------------------------------------------


def test_format_and_length_weigh_what_they_are_given():
    strategy = MajorityVoteReward("string", format=0.5, length=0.5)
    truncated = torch.tensor([[False, True, False]])
    _, result = shaped(strategy, answered(["1", "1", None], truncated=truncated))
    assert result.weights.tolist() == [[0.5, 0.25, 0.25]]
    assert result.rewards.tolist() == [[1.0, 0.75, 0.25]]
    assert strategy.keys == {"agreement": 0, "format": 1, "length": 2}
    _, uniform = shaped(MajorityVoteReward("string", format=0.5, weights="uniform"), answered(["1", "1", None]))
    assert uniform.weights.tolist() == [[0.5, 0.5]]


def test_focal_weights_on_agreement_and_format_by_hand():
    strategy = MajorityVoteReward("string", format=1.0, weighting=FocalWeighting(gamma=1.0, epsilon=0.05))
    _, result = shaped(strategy, answered(["1", "1", "2", "3"]))
    # agreement 1 1 0 0, format 1 1 1 1: R = 1 1 .5 .5, q = softmax(R); saturation of agreement is q's share of the first two
    sigma = 2 * math.e / (2 * math.e + 2 * math.exp(0.5))
    difficulty = 1 - sigma + 0.05
    weight = difficulty / (difficulty + 0.05)
    assert result.saturation[0].tolist() == pytest.approx([sigma, 1.0], abs=1e-6)
    assert result.weights[0].tolist() == pytest.approx([weight, 1 - weight], abs=1e-6)
    assert result.rewards[0].tolist() == pytest.approx([1, 1, 1 - weight, 1 - weight], abs=1e-6)
    assert result.static.tolist() == [[1, 1, 0.5, 0.5]]


@pytest.mark.parametrize("kind", STRATEGIES)
def test_every_strategy_takes_the_same_arguments(kind):
    strategy = kind(
        equivalence="string",
        format=0.25,
        length=0.125,
        weighting=FocalWeighting(),
        weights="uniform",
        temperature=0.5,
        scope="running",
        decay=0.5,
        warmup=3,
        advantage=GroupAdvantage("none"),
    )
    assert type(strategy.source) is STRATEGIES[kind]
    assert strategy.source.kind == "string"
    assert strategy.source.rubric.prior_weights == pytest.approx([8 / 11, 2 / 11, 1 / 11])
    assert isinstance(strategy.weighting, FocalWeighting)
    assert (strategy.weights, strategy.temperature, strategy.scope) == ("uniform", 0.5, "running")
    assert (strategy.decay, strategy.warmup, strategy.advantage.scale) == (0.5, 3, "none")


# -- held-out prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STRATEGIES)
def test_held_out_prompts_are_measured_against_gold(kind):
    strategy = kind(format=0.5)
    scores = strategy.score(answered(["1/2", "2"], ["7", "7"], answers=("0.5", None)), "val")
    assert type(strategy.held_out) is GoldAnswers
    assert scores.names == (("correct",), ("correct",))  # accuracy and nothing else
    assert scores.scores[0].flatten().tolist() == [1, 0]
    assert scores.mask[..., 0].tolist() == [[True, True], [False, False]]


def test_keys_are_told_apart_by_stage():
    strategy = MajorityVoteReward(format=0.5)
    strategy.setup(FakeTrainer(), SimpleNamespace(group_size=4), "fit")
    assert strategy.stage_keys("train") == ["agreement", "format"]
    assert strategy.stage_keys("val") == ["correct"]


# -- set-up -----------------------------------------------------------------------------------------------------------------


class TeacherLike(Callback):
    """A callback that can do what a teacher's can."""

    def advance(self, policy, batch, planned):
        return 1.0

    def lend(self, policy):
        return policy


def data(**splits):
    return SimpleNamespace(splits=lambda: splits)


def test_co_rewarding_two_needs_a_teacher_to_train():
    strategy, module = CoRewardingII(), SimpleNamespace(group_size=4)
    with pytest.raises(ValueError, match=r"needs a teacher: add one to `trainer.callbacks`") as caught:
        strategy.setup(FakeTrainer(callbacks=[Callback()]), module, "fit")
    assert "class_path: lightning_focal.callbacks.EMATeacher" in str(caught.value)
    strategy.setup(FakeTrainer(callbacks=[TeacherLike()]), module, "fit")
    assert strategy.source.answerer is module
    CoRewardingII().setup(FakeTrainer(), module, "validate")


def test_the_shipped_teacher_is_one():
    from lightning_focal.callbacks import EMATeacher

    CoRewardingII().setup(FakeTrainer(callbacks=[EMATeacher()]), SimpleNamespace(group_size=4), "fit")


def test_co_rewarding_one_needs_pairs_to_train():
    module, single, paired = SimpleNamespace(group_size=4), make_prompts(2), make_prompts(2, questions=("a", "a"), views=(0, 1))
    with pytest.raises(ValueError, match=r"write `data.pairs: true`"):
        CoRewardingI().setup(FakeTrainer(datamodule=data(train=single)), module, "fit")
    CoRewardingI().setup(FakeTrainer(datamodule=data(train=paired, val=single)), module, "fit")


def test_ground_truth_needs_gold_answers_to_train():
    with pytest.raises(ValueError, match=r"2 of 2 prompts have no gold answer .* train without labels"):
        GroundTruthReward().setup(FakeTrainer(datamodule=data(train=make_prompts(2))), SimpleNamespace(group_size=4), "fit")


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_group_of_one_has_no_advantage(kind):
    with pytest.raises(ValueError, match=r"`model.group_size` must be at least 2"):
        kind().setup(FakeTrainer(callbacks=[TeacherLike()]), SimpleNamespace(group_size=1), "fit")
