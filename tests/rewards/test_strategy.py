"""A strategy among the Trainer's callbacks."""

from types import SimpleNamespace

import pytest
from lightning.pytorch import Callback

from lightning_focal.rewards import FocalReward, RewardStrategy, StaticReward, TokenChoiceScores, find_strategy
from lightning_focal.rubrics import Criterion, Rubric
from tests.helpers import FakeTrainer, TableJudge, make_prompts


def test_the_one_strategy_is_found():
    strategy = FocalReward()
    assert find_strategy(FakeTrainer(callbacks=[Callback(), strategy])) is strategy
    with pytest.raises(ValueError, match="no reward strategy: write `--reward=FocalReward`") as caught:
        find_strategy(FakeTrainer(callbacks=[Callback()]))
    assert "class_path: lightning_focal.rewards.FocalReward" in str(caught.value)
    with pytest.raises(ValueError, match=r"2 reward strategies \(FocalReward, StaticReward\), exactly one is needed"):
        find_strategy(FakeTrainer(callbacks=[FocalReward(), StaticReward()]))


def module(group_size=4):
    return SimpleNamespace(group_size=group_size)


def data(*rubrics, keys=("x", "y")):
    return SimpleNamespace(splits=lambda: {"train": make_prompts(len(rubrics), rubrics)}, level_keys=lambda: list(keys))


def test_setup_validates_the_prompts_and_learns_the_keys():
    judge = TableJudge({})
    strategy = FocalReward(judge=judge)
    rubric = Rubric((Criterion("a", "", check={"kind": "no_commas"}),))
    strategy.setup(FakeTrainer(datamodule=data(rubric, keys=("x", "y"))), module(), "fit")
    assert judge.validated == ["a"]
    assert strategy.keys == {"x": 0, "y": 1}
    strategy.setup(FakeTrainer(datamodule=data(rubric, keys=("w", "x"))), module(), "test")  # another split, another key
    assert strategy.keys == {"x": 0, "y": 1, "w": 2}
    strategy = StaticReward(source=TokenChoiceScores())  # a source may know its keys
    strategy.setup(FakeTrainer(), module(), "fit")
    assert len(strategy.keys) == 9


def test_setup_refuses_what_cannot_be_judged_and_a_group_of_one():
    rubric = Rubric((Criterion("kind", "Is kind.", where="train.jsonl:3: rubric[0]"),))
    with pytest.raises(ValueError, match=r"train.jsonl:3: rubric\[0\]"):
        FocalReward().setup(FakeTrainer(datamodule=data(rubric)), module(), "fit")
    with pytest.raises(ValueError, match=r"`model.group_size` must be at least 2 for GroupAdvantage, got 1"):
        FocalReward().setup(FakeTrainer(), module(1), "fit")
    FocalReward().setup(FakeTrainer(), module(1), "validate")


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_criterion_is_checked_before_a_judge_is_asked(split):
    class Server(TableJudge):
        def validate(self, criterion):
            if criterion.name == "odd":
                raise ValueError(f"{criterion.place}: cannot be judged")

        def prepare(self):
            raise AssertionError("asked too early")

    names = {"train": ["a", "b"], "val": ["c", "d"]}
    names[split][1] = "odd"
    splits = {
        part: make_prompts(2, [Rubric((Criterion(name, "", where=f"{part}.jsonl:{i}"),)) for i, name in enumerate(of_part)])
        for part, of_part in names.items()
    }
    trainer = FakeTrainer(datamodule=SimpleNamespace(splits=lambda: splits))
    with pytest.raises(ValueError, match=rf"{split}.jsonl:1: criterion 'odd': cannot be judged"):
        FocalReward(judge=Server({})).setup(trainer, module(), "fit")


def test_levels_are_kept_by_name_and_logged_by_pool():
    pools = (("a", ["pool:p"]), ("b", ["pool:p"]), ("c", ["axis:x"]))
    rubrics = [Rubric((Criterion(name, "", tags=tags, check="no_commas"),)) for name, tags in pools]
    strategy = FocalReward(judge=TableJudge({}))
    strategy.setup(FakeTrainer(datamodule=data(*rubrics, keys=("a", "b", "x", "free"))), module(), "fit")
    assert list(strategy.keys) == ["a", "b", "x", "free"]
    assert strategy.stage_keys("train") == strategy.stage_keys("val") == ["p", "x", "free"]


def test_a_strategy_of_ones_own_needs_no_methods():
    class Mine(RewardStrategy):
        pass

    strategy = Mine()
    assert find_strategy(FakeTrainer(callbacks=[strategy])) is strategy
    with pytest.raises(ValueError, match=r"Mine.*this run uses.*FocalReward"):
        FocalReward().load_state_dict(strategy.state_dict())
