"""`lightning_focal sft` from end to end, in this process and on a tiny policy."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from lightning_focal.cli import main
from lightning_focal.models import load_policy
from lightning_focal.runs import RUN_FOLDER_ENV
from tests.conftest import TINY, write_rows

pytest.importorskip("reasoning_gym")
ROOT = Path(__file__).parents[2]
SMALL = (
    f"--model.policy={TINY}", "--model.val_questions=4", "--model.val_group_size=2", "--data.train=32", "--data.val=6",
    "--data.batch_size=4", "--trainer.max_steps=4", "--trainer.val_check_interval=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning_focal"])


def run(folder, *args):
    main(["sft", f"--config={ROOT / 'configs' / 'sft_tiny_chain_sum.yaml'}", *SMALL, f"--run_dir={folder}", *map(str, args)])
    return folder


def rows(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 9, 200, 31]])).logits


def test_a_run_ends_in_a_policy_from_which_reinforcement_learning_starts(tmp_path, capsys):
    folder = run(tmp_path / "sft")
    names = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
    assert names == {".run", "config.yaml", "metrics.csv", "policy", "warm_start.json"}
    reached = json.loads((folder / "warm_start.json").read_text())
    assert reached["steps"] == 4
    assert {"seconds", "train/loss/total", "val/loss/total", "val/accuracy/worst", "val/majority/original"} <= set(reached)
    table = rows(folder)
    assert [row["step"] for row in table] == ["0", "1", "2", "3"]
    assert [bool(row["val/loss/total"]) for row in table] == [False, True, False, True]
    assert float(table[3]["val/loss/total"]) < float(table[1]["val/loss/total"])
    said = capsys.readouterr().out
    assert "warm start of random:tiny-llama" in said
    assert "step 2, " in said
    assert f"policy written: --model.policy={folder / 'policy'}" in said
    assert RUN_FOLDER_ENV not in os.environ
    assert sys.argv == ["lightning_focal"]
    first = load_policy(folder / "policy")[0]
    assert logits(first).equal(logits(AutoModelForCausalLM.from_pretrained(folder / "policy")))
    run(folder, "--quiet")  # its own folder, and the same policy
    assert capsys.readouterr().out == f"policy written: --model.policy={tmp_path / 'sft-2' / 'policy'}\n"
    assert logits(load_policy(tmp_path / "sft-2" / "policy")[0]).equal(logits(first))
    more = [f"--data.train={ROOT / 'configs/data/everyday/train.jsonl'}", "--data.val=null", "--model.sampling.max_new_tokens=4"]
    more += ["--trainer.limit_train_batches=1", "--trainer.enable_checkpointing=false", f"--run_dir={tmp_path / 'rl'}"]
    main(["fit", f"--config={ROOT / 'configs' / 'focal_tiny.yaml'}", f"--model.policy={folder / 'policy'}", *more])
    assert (tmp_path / "rl" / "metrics.csv").exists()


def test_stops_where_it_was_told_to(tmp_path, monkeypatch):
    """The first validation finds more than is wanted."""
    monkeypatch.setattr("lightning_focal.data.tasks.TaskGrader.__call__", lambda self, answer: 1.0)
    folder = run(tmp_path / "sft", "--stop_at=0.5")
    assert json.loads((folder / "warm_start.json").read_text())["steps"] == 2


def test_adapters_and_resuming(tmp_path):
    more = ("--model.lora.r=2", "--model.lora.alpha=4", "--trainer.enable_checkpointing=true")
    whole = run(tmp_path / "whole", *more)
    half = run(tmp_path / "half", *more, "--trainer.max_steps=2")
    run(tmp_path / "half", *more, f"--ckpt_path={half / 'checkpoints' / 'last.ckpt'}")
    assert not (tmp_path / "half-2").exists()
    assert [row["step"] for row in rows(half)] == ["0", "1", "2", "3"]
    assert logits(load_policy(half / "policy")[0]).equal(logits(load_policy(whole / "policy")[0]))


def test_plain_files_with_a_response_column(tmp_path):
    rubric = [{"name": "short", "check": {"kind": "max_words", "words": 5}}]
    lines = [{"id": f"q{i}", "prompt": f"{i} + 1 =", "response": f"\\boxed{{{i + 1}}}", "rubric": rubric} for i in range(8)]
    config = {
        "model": {"policy": TINY, "val_questions": 0},
        "data": {"class_path": "RubricDataModule", "init_args": {"train": str(write_rows(tmp_path / "train.jsonl", lines))}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False},
        "run_dir": str(tmp_path / "sft"),
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(config))
    main(["sft", f"--config={tmp_path / 'sft.yaml'}"])
    assert json.loads((tmp_path / "sft" / "warm_start.json").read_text())["steps"] == 2
    assert (tmp_path / "sft" / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize(("args", "code", "message"), [
    (["--stop_at=1.5"], 1, "error: `stop_at` must be in (0, 1], got 1.5"),
    (["--ckpt_path=nowhere.ckpt"], 1,
     "error: `ckpt_path` must be an existing checkpoint such as runs/focal/checkpoints/last.ckpt, got 'nowhere.ckpt'"),
    (["--data.task_args={terms: 2}"], 1, "`data.task_args`: chain_sum knows no 'terms'"),
    (["--model.val_group_size=0"], 1, "`model.val_group_size` >= 1"),
    (["--model.group_size=4"], 2, "group_size"),
    (["--model.max_response_tokens=3"], 1, "tokens, 3 are allowed"),
])  # fmt: skip
def test_errors_in_words(tmp_path, capsys, args, code, message):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "sft", *args)
    said = capsys.readouterr().err
    assert message in said
    assert stop.value.code == code
    assert "Traceback" not in said
    assert not (tmp_path / "sft").exists()  # nothing is left of a run that did not begin


@pytest.mark.slow  # two processes
def test_two_processes_share_a_run(tmp_path):
    command = [sys.executable, "-m", "lightning_focal", "sft", f"--config={ROOT / 'configs' / 'sft_tiny_chain_sum.yaml'}", *SMALL]
    command += [f"--run_dir={tmp_path / 'two'}", "--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}  # of an earlier test
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = run(tmp_path / "alone")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["alone", "two"]
    one, two = (json.loads((folder / "warm_start.json").read_text()) for folder in (alone, tmp_path / "two"))
    assert one.keys() == two.keys()
    assert two["val/loss/total"] == pytest.approx(one["val/loss/total"], rel=0.02)  # means over halves, not over the whole batch
    assert (tmp_path / "two" / "policy" / "model.safetensors").exists()
