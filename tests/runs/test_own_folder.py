"""A run folder owns its run, whatever loggers are given, from the command line and from Python."""

import csv
import functools
import importlib.util
import json
import logging
import os
import sys

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal import FocalReward, GRPOModule, RubricDataModule, RunCheckpoint, Sampling, StaticReward, Trainer
from lightning_focal.cli import main
from lightning_focal.runs import RUN_FOLDER_ENV
from tests.conftest import TINY, rubric_rows, write_rows
from tests.runs.given_loggers import Notes

OWN = {".run", "config.yaml", "run.json", "metrics.csv", "checkpoints", "rollouts"}

# Options, what the folder holds beside OWN and TensorBoard's events, and what the current folder holds beside `runs`.
SETTINGS = {
    "false": (["--trainer.logger=false"], set(), set()),
    "+=": (["--trainer.logger+=TensorBoardLogger", "--trainer.logger.save_dir=mine"], set(), {"mine"}),
    "several": (["--config=several.yaml"], {"notes"}, {"mine"}),  # one of them is told nothing
}
SERVICES = {
    "wandb": (["--trainer.logger=lightning.pytorch.loggers.WandbLogger"], {"wandb"}, set()),
    "mlflow": (["--trainer.logger=lightning.pytorch.loggers.MLFlowLogger"], {"mlruns"}, set()),
}
SEVERAL = [
    {"class_path": "tests.runs.given_loggers.Notes"},
    {"class_path": "CSVLogger", "init_args": {"save_dir": "mine"}},
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with nothing in it but rows and a configuration."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_rows(tmp_path / "train.jsonl", rubric_rows(4))
    several = tmp_path / "here" / "several.yaml"
    several.write_text(yaml.safe_dump({"trainer": {"logger": SEVERAL}}), encoding="utf-8")
    return tmp_path / "here"


def fit(*options, run_dir="runs/a"):
    given = f"--model.policy={TINY} --model.group_size=2 --model.sampling.max_new_tokens=4 --data=RubricDataModule "
    given += "--data.train=../train.jsonl --data.batch_size=2 --trainer.accelerator=cpu --trainer.max_epochs=1 "
    given += "--reward=StaticReward"
    main(["fit", *given.split(), f"--run_dir={run_dir}", *options])
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()  # as at the end of a process: else a run is still written while the next one starts
        sys.modules["wandb"].teardown()


def entries(folder):
    return {"events" if path.name.startswith("events.out") else path.name for path in folder.iterdir()}


def rows(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if "/time/" not in name} for row in csv.DictReader(file)]


def whole(folder):
    """Everything of a run is there, of two batches."""
    assert [row["step"] for row in rows(folder)] == ["0", "1"]
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"step=2.ckpt", "last.ckpt"}
    assert len(pq.read_table(folder / "rollouts")) == 4 * 2
    (start,) = json.loads((folder / "run.json").read_text(encoding="utf-8"))["starts"]
    assert start["ended"]
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def check(setting, here, again=False):
    options, beside, outside = setting
    fit(*options)
    folders, written = [here / "runs/a"], (here / "runs/a").rglob("*")
    if again:  # the second run touches nothing of the first
        first = {path: path.read_bytes() for path in written if path.is_file() and path.suffix != ".log"}
        fit(*options)
        folders.append(here / "runs/a-2")
        assert [path for path, content in first.items() if path.read_bytes() != content] == []
    for folder in folders:
        assert entries(folder) == OWN | beside | (set() if options == ["--trainer.logger=false"] else {"events"})
        assert whole(folder)["data"]["init_args"]["train"] == str(here.parent / "train.jsonl")
    assert {path.name for path in here.iterdir()} == {"runs", "several.yaml"} | outside


@pytest.mark.parametrize("setting", SETTINGS)
def test_any_logger_leaves_the_run_whole(setting, here):
    check(SETTINGS[setting], here, again=setting == "several")
    if setting == "several":  # a logger gets settings and values
        held = json.loads((here / "runs/a/notes/notes.json").read_text(encoding="utf-8"))
        assert held["params"]["model"]["policy"] == TINY
        assert held["params"]["reward"]["class_path"] == "lightning_focal.rewards.StaticReward"
        assert not {"run_dir", "ckpt_path"} & held["params"].keys()
        own = [float(row["train/reward/mean"]) for row in rows(here / "runs/a")]
        assert [values["train/reward/mean"] for _, values in held["steps"] if "train/reward/mean" in values] == own


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_any_service_leaves_the_run_whole(service, here, monkeypatch):
    if importlib.util.find_spec(service) is None:
        pytest.skip(f"{service} is not installed: pip install -e '.[loggers]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check(SERVICES[service], here, again=True)
    (folder,) = (here / "runs/a" / {"wandb": "wandb", "mlflow": "mlruns"}[service]).glob(
        "offline-*" if service == "wandb" else "[1-9]*"
    )
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for what in ("rollouts/train", "criteria", "report/levels"):
        assert any(what in path and path.endswith((".json", ".md", ".png")) for path in held), what


def test_its_commands_work_from_every_folder(here, tmp_path, monkeypatch):
    fit("--data.val=../train.jsonl", "--trainer.logger=true")
    assert entries(here / "runs/a") == OWN | {"events", "held_out.json"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = f"--config={here / 'runs/a/config.yaml'}"
    main(["validate", config, f"--ckpt_path={here / 'runs/a/checkpoints/last.ckpt'}"])
    assert (here / "runs/a-validate/held_out.json").is_file()
    main(["report", str(here / "runs/a")])
    main(["fit", config, "--run_dir=again"])
    assert rows(elsewhere / "again") == rows(here / "runs/a")
    assert {path.name for path in elsewhere.iterdir()} == {"again"}


# -- from Python ---------------------------------------------------------------------------------------------------------------


def built(strategy=None, run_dir="runs/python", callbacks=(), **trainer):
    """What a script puts together; also config.yaml says it."""
    seed_everything(0)
    optimizer = trainer.pop("optimizer", functools.partial(torch.optim.AdamW, lr=1e-2))
    module = GRPOModule(TINY, group_size=2, val_group_size=2, sampling=Sampling(max_new_tokens=4), optimizer=optimizer)
    data = RubricDataModule("../train.jsonl", val="../train.jsonl", batch_size=2)
    strategy = FocalReward(gamma=1.0, scope="running") if strategy is None else strategy
    settings = {"max_epochs": 1, "accelerator": "cpu", "run_dir": run_dir, "callbacks": [strategy, *callbacks], **trainer}
    return Trainer(**settings), module, data


def run(*args, **kwargs):
    trainer, module, data = built(*args, **kwargs)
    trainer.fit(module, datamodule=data)
    return trainer, module, data


def test_a_run_of_python_is_one_of_the_command_line_goes_on_and_branches(here, capsys):
    saving = RunCheckpoint(every_n_batches=1, keep=3)
    trainer, module, data = run(callbacks=[saving])
    folder = here / "runs/python"
    assert trainer.folder == trainer.folder.relative_to(".") == folder.relative_to(here)
    assert entries(folder) == OWN | {"events", "held_out.json"}
    assert len(pq.read_table(folder / "rollouts")) == 4 * 2 * 3
    assert len(json.loads((folder / "held_out.json").read_text(encoding="utf-8"))["evaluations"]) == 2
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["reward"] == config["reward"] | {"class_path": "lightning_focal.rewards.FocalReward"}
    assert config["model"]["optimizer"] == {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    assert "held-out prompts are too few" in capsys.readouterr().out
    trainer.validate(module, datamodule=data)
    assert (here / "runs/python-validate/held_out.json").is_file()
    main(["fit", "--config=runs/python/config.yaml", "--run_dir=runs/again"])  # the command line repeats it
    assert rows(here / "runs/again") == rows(folder)
    for made in (folder, here / "runs/again"):
        assert sorted(os.listdir(made / "checkpoints")) == ["last.ckpt", "step=1.ckpt", "step=2.ckpt"]
    run(max_epochs=2)
    trainer, module, data = built(max_epochs=2, run_dir="runs/again")
    trainer.fit(module, datamodule=data, ckpt_path="last")
    assert rows(here / "runs/again") == rows(here / "runs/python-2")
    branch, module, data = built(run_dir="runs/branch", max_epochs=2)
    branch.fit(module, datamodule=data, ckpt_path="runs/python/checkpoints/step=2.ckpt")
    assert [row["step"] for row in rows(here / "runs/branch")] == ["2", "3"]
    assert sorted(os.listdir(here / "runs")) == ["again", "branch", "python", "python-2", "python-validate"]
    assert {path.name for path in here.iterdir()} == {"runs", "several.yaml"}
    assert RUN_FOLDER_ENV not in os.environ


def test_a_script_is_spared_lines_it_can_do_nothing_about(here, monkeypatch, caplog):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    for name in ("pytorch", "fabric"):  # whichever was imported last speaks for both
        logger = logging.getLogger(f"lightning.{name}.utilities.rank_zero")
        monkeypatch.setattr(logger, "filters", [])
        monkeypatch.setattr(logger, "handlers", [handler])
        caplog.set_level(logging.INFO, logger.name)
    built()
    assert ["GPU available" in "\n".join(said), "TPU available" in "\n".join(said)] == [True, False]


def test_loggers_and_callbacks_of_a_script(here):
    saver = ModelCheckpoint(every_n_train_steps=1)
    trainer, *_ = run(logger=[Notes("mine")], callbacks=[saver], optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1))
    held = json.loads((here / "mine/notes/notes.json").read_text(encoding="utf-8"))
    assert held["params"]["model"]["group_size"] == 2
    assert len(trainer.loggers) == 3
    text = (here / "runs/python/config.yaml").read_text(encoding="utf-8")
    assert text.startswith("# put together in Python; left out, as no file can hold it: ")
    assert "model.optimizer" in text.splitlines()[0]
    assert os.path.dirname(saver.best_model_path) == "runs/python/checkpoints"
    assert {path.name for path in here.iterdir()} == {"runs", "mine", "several.yaml"}


def test_a_script_that_fails_and_one_that_is_tried_leave_no_folder(here):
    trainer, module, data = built(StaticReward())
    with pytest.raises(FileNotFoundError, match=r"no.jsonl"):
        trainer.fit(module, datamodule=RubricDataModule("no.jsonl"))
    assert list((here / "runs").iterdir()) == []
    with pytest.raises(FileNotFoundError, match="`ckpt_path` must be an existing checkpoint"):
        trainer.fit(module, datamodule=data, ckpt_path="no.ckpt")
    run(fast_dev_run=True)  # nor does what is only tried
    assert list((here / "runs").iterdir()) == []


def test_without_a_run_folder_it_is_lightnings_trainer(here):
    trainer, module, data = built(run_dir=None, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, datamodule=data)
    assert {path.name for path in here.iterdir()} == {"several.yaml"}
    assert trainer.folder is None
