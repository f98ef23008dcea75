"""run.json: command, versions and commit of every start."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from lightning_focal.runs import RunRecord
from lightning_focal.runs.record import commit
from tests.helpers import FakeTrainer


def starts(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["starts"]


def begin(folder, batch=0, **kwargs):
    trainer = FakeTrainer(folder, batches=batch, strategy=SimpleNamespace(root_device=torch.device("cpu")), **kwargs)
    RunRecord().on_train_start(trainer, None)
    return trainer


def test_start_and_end(tmp_path, monkeypatch):
    for program, command in (("bin/lightning_focal", "lightning_focal"), ("__main__.py", "python -m lightning_focal")):
        monkeypatch.setattr(sys, "argv", [f"/somewhere/{program}", "fit", "--run_dir", "a folder"])
        trainer = begin(tmp_path, world_size=2)
        assert begin(tmp_path, 7, rank=1).log_dirs_asked == trainer.log_dirs_asked  # a collective; one process writes
        (start,) = starts(tmp_path)
        assert start["command"] == f"{command} fit --run_dir 'a folder'"
        assert (start["batch"], start["ended"], start["device"]) == (0, False, f"2 x cpu, {torch.get_num_threads()} threads")
        assert start["torch"].startswith("2.")
        RunRecord().on_fit_end(trainer, None)
        assert starts(tmp_path)[0]["ended"] is True


def test_starts_of_resumed_runs_and_a_broken_record(tmp_path):
    (tmp_path / "run.json").write_text('{"starts": 3')
    RunRecord().on_fit_end(FakeTrainer(tmp_path), None)  # nothing to note
    for batch, expected in ((3, [3]), (4, [3, 4]), (4, [3, 4]), (0, [0])):  # the last one begins again
        begin(tmp_path, batch)
        assert [start["batch"] for start in starts(tmp_path)] == expected


def test_commit_is_that_of_the_checkout(monkeypatch):
    root = Path(__file__).resolve().parents[2]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    known = commit()
    assert known is None if git.returncode else known.removesuffix("+changes") == git.stdout.strip()
    monkeypatch.setenv("PATH", "")
    assert commit() is None
