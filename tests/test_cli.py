"""The command line from end to end, on a tiny policy; one run is a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from lightning_focal.cli import main
from lightning_focal.runs import RUN_FOLDER_ENV
from tests.conftest import RUBRIC, TINY, rubric_rows, write_rows
from tests.modules.helpers import metrics

ROOT = Path(__file__).parent.parent
FOCAL_TINY = str(ROOT / "configs" / "focal_tiny.yaml")


class Tiny:
    """The command line over configs/focal_tiny.yaml, with a smaller policy and a small rubric file."""

    def __init__(self, folder):
        self.folder = folder
        self.train = str(write_rows(folder / "train.jsonl", rubric_rows(8)))
        self.val = str(write_rows(folder / "val.jsonl", rubric_rows(3)))
        self.smaller = [f"--model.policy={TINY}", "--model.sampling.max_new_tokens=6", "--data.batch_size=2"]
        self.smaller += [f"--data.train={self.train}", f"--data.val={self.val}"]

    def __call__(self, command, *args, config=FOCAL_TINY, run_dir="run"):
        smaller = self.smaller if config == FOCAL_TINY else []
        main([command, f"--config={config}", *smaller, f"--run_dir={self.folder / run_dir}", *map(str, args)])
        return self.folder / f"{run_dir}{'' if command == 'fit' else f'-{command}'}"

    def config(self, name, **sections):
        """A whole configuration of one's own."""
        content = {
            "model": {"policy": TINY, "group_size": 4, "val_group_size": 2, "sampling": {"max_new_tokens": 6}},
            "data": {"class_path": "RubricDataModule", "init_args": {"train": self.train, "batch_size": 2}},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
            **sections,
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)


@pytest.fixture
def tiny(tmp_path):
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, in a process of its own: ``(command line, its folder, what it said)``."""
    cli = Tiny(tmp_path_factory.mktemp("cli"))
    args = [f"--config={FOCAL_TINY}", *cli.smaller, f"--run_dir={cli.folder / 'run'}"]
    command = [sys.executable, "-m", "lightning_focal", "fit", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return cli, cli.folder / "run", done


def config_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def rollouts(folder, stage):
    return [row for path in sorted((folder / "rollouts").glob(f"{stage}-*.parquet")) for row in pq.read_table(path).to_pylist()]


# -- fit -----------------------------------------------------------------------------------------------------------------------


def test_a_run_says_nothing_that_nobody_can_act_upon(finished):
    _, _, done = finished
    known = r"Seed set to 0|GPU available: .*|`Trainer.fit` stopped: `max_epochs=1` reached.|Missing logger folder.*"
    assert [line for line in done.stderr.splitlines() if not re.fullmatch(known, line)] == []
    for words in ("held-out score after 0 batches", "batch 4/4", "No verdict: 3 held-out prompts", "Next:"):
        assert words in done.stdout


def test_run_folder_holds_everything(finished):
    _, folder, _ = finished
    entries = {re.sub(r"^events\.out\.tfevents\..*", "events", path.name) for path in folder.iterdir()}
    assert entries == {".run", "config.yaml", "run.json", "metrics.csv", "events", "rollouts", "checkpoints", "held_out.json"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "step=4.ckpt"}
    config = config_of(folder)
    assert config["reward"]["class_path"] == "lightning_focal.rewards.FocalReward"
    assert config["model"]["policy"] == TINY
    assert config["seed_everything"] == 0
    before, *_, after = evaluations(folder)
    assert (before["batch"], after["batch"]) == (0, 4)
    assert before["scores"].keys() == {"row-0", "row-1", "row-2"}


def test_metrics_are_one_row_a_batch_and_events_the_same(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder, _ = finished
    rows = metrics(folder, times=True)
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    wanted = {f"train/{key}" for key in ("reward/mean", "reward/static", "criterion/brevity/score", "saturation/content")}
    wanted |= {f"train/{key}" for key in ("weight/tone", "balance/worst", "loss/policy", "policy/lr", "time/generate_s")}
    wanted |= {f"val/held_out/{key}" for key in ("mean", "low", "high")}
    assert wanted <= rows[0].keys()
    assert all(row["train/reward/mean"] for row in rows)
    assert [bool(row["val/held_out/mean"]) for row in rows] == [True, False, False, True]  # before and after
    events = EventAccumulator(str(folder))
    events.Reload()
    seen = [event.value for event in events.Scalars("train/reward/mean")]
    assert seen == pytest.approx([float(row["train/reward/mean"]) for row in rows])
    assert "hp_metric" not in events.Tags()["scalars"]


def test_rollout_table_holds_every_column(finished):
    _, folder, _ = finished
    rows = rollouts(folder, "train")
    assert len(rows) == 8 * 4
    wanted = "stage batch prompt_id rollout messages response tokens truncated valid"
    wanted += " reward static_reward advantage policy_version criteria"
    assert rows[0].keys() >= {*wanted.split()}
    assert [entry["name"] for entry in rows[0]["criteria"]] == [entry["name"] for entry in RUBRIC]
    wanted = {"name", "tags", "score", "outcome", "reason", "prior_weight", "weight", "saturation"}
    assert all(entry.keys() >= wanted for entry in rows[0]["criteria"])
    for row in rows:
        judged = [entry for entry in row["criteria"] if entry["score"] is not None]
        assert row["reward"] == pytest.approx(sum(e["weight"] * e["score"] for e in judged), abs=1e-5)
        assert row["static_reward"] == pytest.approx(sum(e["prior_weight"] * e["score"] for e in judged), abs=1e-5)


def evaluations(folder):
    return json.loads((folder / "held_out.json").read_text(encoding="utf-8"))["evaluations"]


def test_config_of_a_run_can_be_fed_back(finished):
    """A second run gets a folder of its own; it says the same, in this process; another seed says something else."""
    cli, folder, _ = finished
    before = metrics(folder)
    cli("fit", config=str(folder / "config.yaml"))
    assert metrics(folder.with_name("run-2")) == metrics(folder) == before
    assert RUN_FOLDER_ENV not in os.environ
    other = cli("fit", "--seed_everything=1", "--trainer.limit_train_batches=1", run_dir="other")
    assert metrics(other)[0] != metrics(folder)[0]


def test_resumed_run_goes_on_in_its_folder(tiny):
    smaller = ("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0")
    whole = tiny("fit", "--trainer.max_epochs=2", *smaller, run_dir="whole")
    half = tiny("fit", *smaller, run_dir="half")
    tiny("fit", "--trainer.max_epochs=2", *smaller, f"--ckpt_path={half / 'checkpoints' / 'last.ckpt'}", run_dir="half")
    assert not (tiny.folder / "half-2").exists()
    assert metrics(half) == metrics(whole)
    assert config_of(half)["trainer"]["max_epochs"] == 2


# -- the strategy --------------------------------------------------------------------------------------------------------------


def test_reward_swaps_the_strategy_and_takes_its_arguments(tiny):
    folder = tiny("fit", "--reward=StaticReward", "--trainer.limit_train_batches=1")
    assert config_of(folder)["reward"]["class_path"] == "lightning_focal.rewards.StaticReward"
    for row in rollouts(folder, "train"):
        assert [entry["weight"] for entry in row["criteria"]] == pytest.approx([0.5, 0.25, 0.25])
        assert row["reward"] == pytest.approx(row["static_reward"])
    folder = tiny("fit", "--reward.gamma=2", "--model.group_size=3", "--trainer.limit_train_batches=1", run_dir="gamma")
    assert config_of(folder)["reward"]["init_args"]["gamma"] == 2
    for row in rollouts(folder, "train"):
        raw = [entry["prior_weight"] * (1.05 - entry["saturation"]) ** 2 for entry in row["criteria"]]
        assert [entry["weight"] for entry in row["criteria"]] == pytest.approx([w / sum(raw) for w in raw], rel=1e-4)
    assert sorted({row["rollout"] for row in rollouts(folder, "train")}) == [0, 1, 2]


def test_strategy_among_the_callbacks(tiny):
    reward = {"class_path": "lightning_focal.rewards.FocalReward", "init_args": {"gamma": 1.0}}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 2}
    listed = tiny.config("listed.yaml", trainer={**trainer, "callbacks": [reward]})
    as_key = tiny.config("as_key.yaml", trainer=trainer, reward=reward)
    runs = [tiny("fit", config=listed, run_dir="listed"), tiny("fit", config=as_key, run_dir="as_key")]
    assert config_of(runs[0])["reward"] is None
    assert metrics(runs[0]) == metrics(runs[1])


def test_own_callbacks_replace_the_default_ones_and_adamw_decays_by_its_own_default(tiny):
    callbacks = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"every_n_train_steps": 2, "save_top_k": -1}},
        {"class_path": "lightning_focal.callbacks.RolloutTable", "init_args": {"stages": ["val"]}},
    ]
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    model = {"policy": TINY, "group_size": 2, "sampling": {"max_new_tokens": 4}, "optimizer": optimizer}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "callbacks": callbacks}
    folder = tiny("fit", config=tiny.config("own.yaml", model=model, reward={"class_path": "StaticReward"}, trainer=trainer))
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt", "step=4.ckpt", "last.ckpt"}  # the run's own are always there
    assert not (folder / "rollouts").exists()  # there are no held-out prompts
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.01)


# -- the other commands --------------------------------------------------------------------------------------------------------


def test_commands_printed_at_the_end_work(finished, capsys, monkeypatch):
    """What a person is told to type next: they find the run's own score, and write answers with their criterion scores."""
    cli, folder, done = finished
    lines = [
        line.split()[3:] for line in done.stdout.splitlines() if line.strip().startswith(f"{sys.executable} -m lightning_focal")
    ]
    assert [line[0] for line in lines] == ["validate", "predict", "report"]
    monkeypatch.chdir(cli.folder)
    said = {}
    for line in lines:
        main(line)
        said[line[0]] = capsys.readouterr().out
    assert evaluations(cli.folder / "run-validate")[-1]["scores"] == evaluations(folder)[-1]["scores"]
    assert "prior-weighted static score" in said["validate"]
    assert "Validate metric" not in said["validate"]  # Lightning's own table, a row a value
    untrained = cli("validate", run_dir="w")  # no checkpoint
    assert evaluations(untrained)[-1]["scores"] == evaluations(folder)[0]["scores"] != evaluations(folder)[-1]["scores"]
    answered = cli.folder / "run-predict"
    rows = rollouts(answered, "predict")
    assert len(rows) == 3 * 2
    assert all(isinstance(row["response"], str) and len(row["criteria"]) == 3 for row in rows)
    assert all(entry["outcome"] in ("met", "not_met") for row in rows for entry in row["criteria"])
    assert f"{answered / 'rollouts'}/predict-" in said["predict"]


def test_test_answers_the_test_prompts(finished):
    cli, folder, _ = finished
    test = write_rows(cli.folder / "test.jsonl", rubric_rows(5))
    answered = cli("test", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}", f"--data.test={test}", run_dir="t")
    assert float(metrics(answered)[-1]["test/reward/valid_share"]) == 1
    assert {row["prompt_id"] for row in rollouts(answered, "test")} == {f"row-{i}" for i in range(5)}


def test_a_quiet_run_says_what_came_out(tiny, capsys):
    folder = tiny("fit", "--quiet", "--trainer.enable_checkpointing=false", "--trainer.limit_train_batches=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "held-out prompts"
    assert lines[-5].endswith(f"Written to {folder}:")
    assert lines[-3:] == ["Next:", f"  lightning_focal report {folder}", f"  tensorboard --logdir {folder}"]
    assert not [line for line in lines if line.startswith("batch ")]
