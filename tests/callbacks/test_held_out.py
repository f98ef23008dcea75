"""The held-out score: collected prompt by prompt, paired, kept in the checkpoint."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from lightning_focal.callbacks import HeldOut
from lightning_focal.callbacks.held_out import prompt_scores
from lightning_focal.data import RubricDataModule
from lightning_focal.functional import bootstrap_interval
from lightning_focal.intervals import parted
from lightning_focal.judges import Judge, Outcome, Verdict
from lightning_focal.rewards import FocalReward, StaticReward
from tests.conftest import rubric_rows, write_rows
from tests.helpers import FakeTrainer, make_answers, make_scores


class Answering:
    """A module that answers two batches of held-out prompts, every criterion met to ``level``."""

    def __init__(self, callback, trainer, level=0.5):
        self.callback, self.trainer, self.level = callback, trainer, level
        self.logged, self.stages = {}, []

    def evaluate(self, batch, stage, batch_idx, into):
        self.stages.append(stage)
        self.callback.on_rollouts(self.trainer, self, named(batch, [self.level] * len(batch), stage))
        return [*(into or []), batch]

    def finish_evaluation(self, measures):
        assert len(measures) == 2
        return {"val/reward/mean": self.level}

    def log_dict(self, values, sync_dist=False):
        self.logged |= values


def named(ids, levels, stage="val"):
    answers = make_answers(make_scores([[[level]] for level in levels]), stage)
    prompts = answers.rollouts.prompts
    object.__setattr__(prompts, "ids", tuple(ids))
    return answers


def interval(values):
    return bootstrap_interval(torch.tensor(values, dtype=torch.float64))


def ready(tmp_path, callback=None, **kwargs):
    callback = callback or HeldOut()
    trainer = FakeTrainer(tmp_path, datamodule=SimpleNamespace(val_dataloader=lambda: [("q0", "q1"), ("q2",)]), **kwargs)
    return callback, trainer, Answering(callback, trainer)


# -- one number a prompt ----------------------------------------------------------------------------------------------------


def test_prompt_scores_are_prior_weighted_means_over_valid_rollouts():
    scores = make_scores(
        [[[1.0, 0.0], [None, None]], [[1.0, 1.0], [0.0, None]], [[None, None], [None, None]], [[0.5, 1.0], [None, 1.0]]],
        [[0.75, 0.25], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]],  # in the last row a rollout is judged on nothing that weighs
    )
    seen = prompt_scores(make_answers(scores, strategy=StaticReward(weights="uniform")))
    assert list(seen) == ["p0", "p1", "p2", "p3"]
    assert (seen["p0"], seen["p1"], seen["p3"]) == (0.75, 0.5, 0.5)
    assert math.isnan(seen["p2"])


# -- when it answers --------------------------------------------------------------------------------------------------------


def test_before_and_after_training(tmp_path):
    callback, trainer, module = ready(tmp_path)
    logged = []
    trainer.loggers = [SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics)))]
    callback.on_train_start(trainer, module)
    trainer.batches, module.level = 10, 0.75
    callback.on_train_end(trainer, module)
    assert set(module.stages) == {"val"}
    assert [entry["batch"] for entry in callback.history] == [0, 10]
    assert callback.history[1]["scores"] == {"q0": 0.75, "q1": 0.75, "q2": 0.75}
    assert callback.history[0]["measures"] == {
        "val/reward/mean": 0.5,
        "val/held_out/mean": 0.5,
        "val/held_out/low": 0.5,
        "val/held_out/high": 0.5,
    }
    assert logged == [(entry["batch"], entry["measures"]) for entry in callback.history]
    assert callback.difference() == (0.25, 0.25, 0.25)
    written = json.loads((tmp_path / "held_out.json").read_text())
    assert written == {"level": 0.95, "evaluations": callback.history}


def test_not_again_where_the_trainer_has_just_answered(tmp_path):
    callback, trainer, module = ready(tmp_path, HeldOut(at_start=False), batches=10)
    callback.on_train_start(trainer, module)
    assert callback.history == []
    validate(callback, trainer, module, {"q0": 0.25})
    for trainer.batches in (10, 11):
        callback.on_train_end(trainer, module)
        assert callback.history[-1]["batch"] == trainer.batches
    assert len(callback.history) == 2


@pytest.mark.parametrize("datamodule", ["asked for neither", None, SimpleNamespace(val_dataloader=list)])
def test_there_is_nothing_to_do(tmp_path, datamodule):
    callback, trainer, module = ready(tmp_path, HeldOut(at_start=False, at_end=False) if datamodule else HeldOut())
    if datamodule != "asked for neither":
        trainer.datamodule = datamodule
    callback.on_train_start(trainer, module)
    callback.on_train_end(trainer, module)
    assert callback.history == []


def validate(callback, trainer, module, scores, stage="val"):
    """The Trainer's own validation."""
    callback.on_validation_epoch_start(trainer, module)
    callback.on_rollouts(trainer, module, named(scores, scores.values(), stage))
    callback.on_validation_epoch_end(trainer, module)
    trainer.callback_metrics = {"val/reward/mean": torch.tensor(0.5), "train/reward/mean": torch.tensor(0.125)}
    callback.on_validation_end(trainer, module)


def test_the_trainers_own_validation_is_kept(tmp_path):
    callback, trainer, module = ready(tmp_path, batches=4)
    validate(callback, trainer, module, {"q1": 1.0, "q0": 0.0})
    mean, low, high = interval([0.0, 1.0])
    assert module.logged == {"val/held_out/mean": mean, "val/held_out/low": low, "val/held_out/high": high}
    assert callback.history == [{"batch": 4, "scores": {"q0": 0.0, "q1": 1.0}, "measures": {"val/reward/mean": 0.5}}]
    assert list(callback.history[0]["scores"]) == ["q0", "q1"]  # sorted: the same dice in the bootstrap
    assert callback.interval(0) == (mean, low, high)


def test_what_is_no_held_out_score(tmp_path):
    callback, trainer, module = ready(tmp_path)
    validate(callback, trainer, module, {"q0": 1.0}, stage="train")
    trainer.sanity_checking = True
    validate(callback, trainer, module, {"q0": 1.0})
    assert callback.history == []
    trainer.sanity_checking = False
    callback.on_rollouts(trainer, module, named(["gone"], [1.0]))  # of a validation that was interrupted
    validate(callback, trainer, module, {"q0": 0.5})
    assert callback.history[0]["scores"] == {"q0": 0.5}


# -- differences ------------------------------------------------------------------------------------------------------------


def test_the_difference_is_paired_by_prompt():
    callback = HeldOut()
    callback.history = [
        {"batch": 0, "scores": {"a": 0.0, "b": 1.0, "c": 0.25, "d": float("nan"), "e": 0.5}, "measures": {}},
        {"batch": 5, "scores": {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": 0.0}, "measures": {}},
        {"batch": 9, "scores": {"e": 0.5, "c": 0.75, "b": 1.0, "a": 0.5, "d": 1.0, "f": 1.0}, "measures": {}},
    ]
    # a +0.5, b 0, c +0.5, e 0; d was not judged before, f is new
    assert callback.difference() == interval([0.5, 0.0, 0.5, 0.0])
    assert callback.difference()[0] == 0.25
    assert callback.interval(0)[0] == (0.0 + 1.0 + 0.25 + 0.5) / 4


# -- a second judge ---------------------------------------------------------------------------------------------------------


class Likes(Judge):
    """Meets every criterion to a share of the response's letters that are one of ``letters``."""

    def __init__(self, letters):
        self.letters = letters

    def validate(self, criterion):
        assert criterion.name

    def judge(self, requests):
        level = [sum(letter in self.letters for letter in r.response) / max(1, len(r.response)) for r in requests]
        return [tuple(Verdict(Outcome.GRADED, value) for _ in r.criteria) for r, value in zip(requests, level, strict=True)]


def test_judges_that_part_are_told_apart(tmp_path, caplog):
    callback, trainer, _ = ready(tmp_path)
    names = [f"q{i}" for i in range(12)]

    def keep(batch, first, second, count=12):
        trainer.batches = batch
        callback._scores = dict.fromkeys(names[:count], first)
        callback._second = dict.fromkeys(names[:count], second)
        callback._keep(trainer, {})

    keep(0, 0.5, 0.5)
    keep(4, 0.6, 0.6)
    assert not caplog.records  # both rise
    keep(8, 0.7, 0.55)  # above the start, below the best
    assert [record.getMessage() for record in caplog.records] == [
        "the judges part: from batch 4 to 8 the held-out score changed by +0.100 [+0.100, +0.100] by the training judge and by "
        "-0.050 [-0.050, -0.050] by `reward.held_out_judge`; the policy learns to please its judge"
    ]
    assert json.loads((tmp_path / "held_out.json").read_text())["evaluations"][2]["held_out_judge"] == dict.fromkeys(names, 0.55)
    keep(9, 0.7, 0.0, count=9)
    assert len(caplog.records) == 1  # nine prompts say nothing
    callback.history[2]["held_out_judge"] = callback.history[2]["scores"] = dict.fromkeys(names, float("nan"))
    callback.history.pop()
    assert parted(callback.history) is None


def test_a_real_run_is_measured_by_both_judges(tmp_path, run_tiny):
    val = str(write_rows(tmp_path / "val.jsonl", rubric_rows(4)))
    callback = HeldOut()
    strategy = FocalReward(judge=Likes("aeiou"), held_out_judge=Likes("tnsr"))
    built = run_tiny(strategy, callback, data_val=val, data_eval_batch_size=3)
    first, *_, last = json.loads((built.folder / "held_out.json").read_text())["evaluations"]
    for entry in (first, last):
        assert list(entry["held_out_judge"]) == list(entry["scores"]) == [f"row-{i}" for i in range(4)]
        seen, mean = entry["held_out_judge"].values(), entry["measures"]["val/held_out_judge/mean"]
        assert mean == pytest.approx(sum(seen) / 4)
        assert entry["measures"]["val/held_out_judge/low"] <= mean <= entry["measures"]["val/held_out_judge/high"]
        assert 0 < entry["measures"]["val/held_out_judge/disagreement"] < 1
        assert entry["held_out_judge"] != entry["scores"]


# -- checkpoints and processes ----------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_the_score_from_before(tmp_path):
    callback, trainer, module = ready(tmp_path)
    callback.on_train_start(trainer, module)
    state = callback.state_dict()
    trainer.batches = 5
    callback.on_train_end(trainer, module)
    assert len(state["history"]) == 1  # a copy
    resumed, trainer, module = ready(tmp_path, batches=3)
    resumed.load_state_dict(state)
    resumed.on_train_start(trainer, module)
    assert module.stages == []
    assert resumed.history == callback.history[:1]


def test_every_rank_asks_for_the_folder_and_one_writes(tmp_path):
    asked = []
    for rank in range(2):
        folder = tmp_path / str(rank)
        callback, trainer, _ = ready(folder, rank=rank)
        callback._scores = {"q0": 1.0}
        callback._keep(trainer, {})
        asked.append(trainer.log_dirs_asked)
        assert (folder / "held_out.json").exists() == (rank == 0)
    assert asked[0] == asked[1]


class Stop(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed == 2:
            trainer.save_checkpoint(trainer.default_root_dir + "/checkpoints/mid.ckpt")


def test_a_real_run_answers_before_between_and_after(tmp_path, run_tiny):
    val = str(write_rows(tmp_path / "val.jsonl", rubric_rows(4)))
    callback = HeldOut()
    arguments = {"data_val": val, "data_eval_batch_size": 2, "trainer_max_epochs": 2, "trainer_check_val_every_n_epoch": 1}
    built = run_tiny(None, callback, Stop(), **arguments)
    assert isinstance(built.data, RubricDataModule)
    assert [entry["batch"] for entry in callback.history] == [0, 4, 8]  # 8 prompts, 2 a batch; none twice
    assert set(callback.history[0]["scores"]) == {f"row-{i}" for i in range(4)}
    assert callback.history[0]["measures"].keys() <= callback.history[2]["measures"].keys()
    assert json.loads((built.folder / "held_out.json").read_text())["evaluations"][0]["batch"] == 0

    resumed = HeldOut()
    run_tiny(None, resumed, folder="again", ckpt_path=str(built.folder / "checkpoints" / "mid.ckpt"), **arguments)
    assert [entry["batch"] for entry in resumed.history] == [0, 4, 8]
    assert json.dumps(resumed.history[0]) == json.dumps(callback.history[0])  # NaN equals NaN
    assert resumed.history[2]["scores"] == callback.history[2]["scores"]


def test_validating_a_few_batches_meets_the_same_prompts_every_time(tmp_path, run_tiny):
    val = str(write_rows(tmp_path / "val.jsonl", rubric_rows(6)))
    callback, arguments = HeldOut(at_start=False, at_end=False), {"data_val": val, "data_eval_batch_size": 2}
    run_tiny(
        None, callback, **arguments, trainer_limit_val_batches=1, trainer_val_check_interval=2, trainer_num_sanity_val_steps=2
    )
    assert [sorted(entry["scores"]) for entry in callback.history] == [["row-0", "row-1"]] * 2
