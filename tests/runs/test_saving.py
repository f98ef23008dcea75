"""A run goes on from its newest checkpoint as if nothing had happened, wherever it was killed."""

import os
import shutil

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_focal.cli import main
from lightning_focal.runs import RunCheckpoint
from tests.conftest import TINY, rubric_rows, write_rows
from tests.runs.killed import same_run, state, table

MOMENTS = {
    "setup": [0],  # the folder is claimed, and nothing else
    "on_train_start": [0],  # before the first evaluation
    "on_train_epoch_start": [1],
    "on_train_batch_start": [0, 1, 3, 5],
    "on_train_batch_end": [0, 3],
    "on_validation_start": [0],
    "on_validation_end": [0, 1],
    "on_train_epoch_end": [0, 1],
    "on_train_end": [0],
}
BETWEEN = {"between": [0, 4]}  # the row is logged, its checkpoint is not written yet; then the newest is that of an epoch's end


def configuration(folder, **sections):
    """Two epochs of four batches, a validation after every third batch, and none at the end."""
    train, val = write_rows(folder / "train.jsonl", rubric_rows(8)), write_rows(folder / "val.jsonl", rubric_rows(3))
    teacher = {"class_path": "lightning_focal.callbacks.EMATeacher", "init_args": {"start": 0.5, "end": 0.9}}
    sizes = {"policy": TINY, "group_size": 4, "val_group_size": 2, "sampling": {"max_new_tokens": 4}}
    trainer = {"max_epochs": 2, "accelerator": "cpu", "val_check_interval": 3, "check_val_every_n_epoch": None}
    content = {
        "reward": {"class_path": "FocalReward", "init_args": {"gamma": 1.0, "scope": "running"}},
        "model": {
            **sizes,
            "update": {"mini_batches": 2, "kl_coef": 0.01},
            "reference": {"class_path": "lightning_focal.modules.TeacherReference"},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "lr_scheduler": {"class_path": "lightning_focal.modules.WarmupCosine"},
        },
        "data": {"class_path": "RubricDataModule", "init_args": {"train": str(train), "val": str(val), "batch_size": 2}},
        "trainer": {**trainer, "callbacks": [teacher, {"class_path": "tests.runs.killed.Counting"}]},
        "checkpoint": {"every_n_batches": 1},
    }
    for key, value in sections.items():
        content[key] = {**content.get(key, {}), **value}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def fit(config, run_dir, *args):
    main(["fit", f"--config={config}", f"--run_dir={run_dir}", *args])
    return run_dir


def kept(folder):
    return {path.name for path in (folder / "checkpoints").iterdir()}


NAMES = [f"{hook}-{number}" for hook, numbers in (MOMENTS | BETWEEN).items() for number in numbers]
QUICK = ("on_train_batch_start-3", "on_validation_start-0", "between-4")


@pytest.mark.parametrize("moment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_killed_at_any_moment_it_ends_the_same(whole, tmp_path, moment):
    config, plain, killed = whole
    folder = shutil.copytree(killed / moment, tmp_path / "run", symlinks=True)
    fit(config, folder, "--ckpt_path=last")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert same_run(folder, plain) == []


def test_two_whole_ones_are_kept_and_a_finished_run_is_left_alone_and_can_be_made_longer(whole, tmp_path):
    config, plain, killed = whole
    assert kept(plain) == {"last.ckpt", "step=14.ckpt", "step=16.ckpt"}
    assert os.readlink(plain / "checkpoints" / "last.ckpt") == "step=16.ckpt"
    assert os.readlink(killed / "on_train_batch_start-3" / "checkpoints" / "last.ckpt") == "step=6.ckpt"
    folder = shutil.copytree(plain, tmp_path / "run", symlinks=True)
    fit(config, folder, "--ckpt_path=last")
    assert same_run(folder, plain) == []
    fit(config, folder, "--ckpt_path=last", "--trainer.max_epochs=3", "--model.lr_scheduler=null")
    assert [row[0] for row in table(folder)[1:]] == [str(step) for step in range(12)]
    assert state(folder)["/lightning_focal/version"] == "24"


@pytest.mark.slow  # three runs
def test_how_often_changes_nothing(whole, tmp_path):
    config, plain, _ = whole
    never = "--checkpoint.every_n_batches=null"
    for name, args, steps in (
        ("seldom", [never, "--checkpoint.every_epoch=false"], [16]),
        ("often", ["--checkpoint.every_n_batches=3", "--checkpoint.keep=9"], [6, 8, 14, 16]),
        ("ticking", [never, "--checkpoint.every_minutes=1e-9"], [14, 16]),
    ):
        assert kept(fit(config, tmp_path / name, *args)) == {"last.ckpt", *(f"step={step}.ckpt" for step in steps)}
        assert same_run(tmp_path / name, plain) == []


# within an epoch, behind a validation, at an epoch's end
@pytest.mark.parametrize("batches", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_that_ended_by_steps_can_be_made_longer(tmp_path, batches):
    config = configuration(tmp_path, model={"lr_scheduler": None})
    fit(config, tmp_path / "run", f"--trainer.max_steps={2 * batches}")
    assert [row[0] for row in table(tmp_path / "run")[1:]] == [str(step) for step in range(batches + (batches != 3))]
    fit(config, tmp_path / "run", "--ckpt_path=last")
    assert [row[0] for row in table(tmp_path / "run")[1:]] == [str(step) for step in range(9)]
    assert state(tmp_path / "run")["/lightning_focal/version"] == "16"


def test_no_checkpoint_while_gradients_are_accumulated(tmp_path):
    """They are not part of it. Five batches, a step after every second and after the last; where it stops, Lightning has stepped."""
    settings = {"accelerator": "cpu", "accumulate_grad_batches": 2, "max_epochs": 1, "limit_train_batches": 5}
    settings |= {"limit_val_batches": 0, "logger": False, "default_root_dir": tmp_path, "enable_progress_bar": False}
    Trainer(**settings, callbacks=[RunCheckpoint(every_n_batches=1, every_epoch=False, keep=9)]).fit(BoringModel())
    found = {path.name: torch.load(path, weights_only=True) for path in (tmp_path / "checkpoints").glob("step=*")}
    loops = {name: saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"] for name, saved in found.items()}
    assert {name: loop["processed"] for name, loop in loops.items()} == {"step=1.ckpt": 2, "step=2.ckpt": 4, "step=3.ckpt": 5}


def test_lightnings_own_checkpoints_beside(tmp_path):
    """The best one by Lightning, `last.ckpt` always ours: Lightning's would be the last of the best."""
    best = {
        "monitor": "val/held_out/mean",
        "mode": "max",
        "save_last": True,
        "filename": "best",
        "auto_insert_metric_name": False,
    }
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best}
    config = configuration(tmp_path, trainer={"callbacks": [saver]}, model={"reference": None, "update": {"mini_batches": 2}})
    folder = fit(config, tmp_path / "run", "--trainer.max_epochs=1")
    assert kept(folder) >= {"best.ckpt", "last.ckpt", "step=6.ckpt", "step=8.ckpt"}
    assert not any(name.startswith("last-v") for name in kept(folder))
    assert os.readlink(folder / "checkpoints" / "last.ckpt") == "step=8.ckpt"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"every_n_batches": 0}, r"`checkpoint.every_n_batches` must be >= 1, got 0"),
    ({"every_minutes": 0.0}, r"`checkpoint.every_minutes` must be > 0, got 0.0"),
    ({"keep": 1}, r"`checkpoint.keep` must be >= 2, so that one is left where the newest is damaged, got 1"),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RunCheckpoint(**arguments)
