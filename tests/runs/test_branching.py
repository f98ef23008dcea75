"""Whatever a run goes on or branches off from, nothing that was recorded is lost."""

import csv
import hashlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_focal.cli import main
from lightning_focal.runs import resume_from, run_folder
from tests.conftest import TINY, rubric_rows, write_rows
from tests.runs.test_broken import flip


def write_config(folder):
    """Four batches of one step, a checkpoint behind each, all of them kept."""
    files = {split: str(write_rows(folder / f"{split}.jsonl", rubric_rows(rows))) for split, rows in (("train", 8), ("val", 1))}
    content = {
        "reward": {"class_path": "StaticReward"},
        "model": {"policy": TINY, "group_size": 2, "val_group_size": 1, "sampling": {"max_new_tokens": 2}},
        "data": {"class_path": "RubricDataModule", "init_args": {**files, "batch_size": 2}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "val_check_interval": 2},
        "checkpoint": {"every_n_batches": 1, "keep": 9},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """``(config, folder)`` of a finished run."""
    top = tmp_path_factory.mktemp("recorded")
    config = write_config(top)
    main(["fit", f"--config={config}", f"--run_dir={top / 'old'}"])
    return config, top / "old"


def listing(folder):
    """Every file below a folder: where links lead, else what is in it and when it was written."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


class Records:
    """What a run folder has recorded: rows, starts, evaluations, rollouts, checkpoints, configurations and events."""

    def __init__(self, folder):
        self.found = set()
        for path in folder.rglob("*"):
            if path.name == "metrics.csv":
                with open(path, newline="") as file:
                    self.found |= {("row", *sorted(filter(lambda cell: cell[1], row.items()))) for row in csv.DictReader(file)}
            elif path.name in ("run.json", "held_out.json"):
                entries = json.loads(path.read_text())
                listed = entries.get("starts") or entries["evaluations"]
                self.found |= {(path.name, json.dumps({**entry, "ended": None}, sort_keys=True)) for entry in listed}
            elif path.suffix == ".parquet" or (path.suffix == ".ckpt" and not path.is_symlink()):
                self.found.add((path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
            elif path.name == "config.yaml":
                settings = {**yaml.safe_load(path.read_text()), "ckpt_path": None, "run_dir": None}
                self.found.add(("config", json.dumps(settings, sort_keys=True)))
        self.events = {path.name: path.read_bytes() for path in folder.rglob("events*")}

    def lost(self, later):
        """What a later look at the folder does not find any more; events are only ever written behind others."""
        gone = [name for name, content in self.events.items() if not later.events.get(name, b"").startswith(content)]
        return sorted(map(str, self.found - later.found)) + gone


def newest_is(*gone, broken=()):
    """Have checkpoints end earlier than the rest, as a kill leaves it."""

    def prepare(old):
        for step in gone:
            (old / "checkpoints" / f"step={step}.ckpt").unlink()
        for step in broken:
            flip(old / "checkpoints" / f"step={step}.ckpt")
        left = [step for step in (1, 2, 3, 4) if step not in gone]
        (old / "checkpoints" / "last.ckpt").unlink()
        if left:
            (old / "checkpoints" / "last.ckpt").symlink_to(f"step={left[-1]}.ckpt")

    return prepare


def taken(old):
    """A configuration names a folder that another run is in."""
    run_folder(old.with_name("new"))
    (old.with_name("new") / "metrics.csv").write_text("step\n0\n")
    (old.parent / "folder.yaml").write_text(f"run_dir: {old.parent / 'new'}\n")


ON, NEW, REFUSED = "goes on", "branches off", "refused"
LAST, LONGER = ["--ckpt_path=last", "--run_dir=old"], "--trainer.max_epochs=2"
EVALUATED = {"metrics.csv", "held_out.json", "val-000004-0000-r0.parquet"}
TRAINED = {f"train-00000{batch}-r0.parquet" for batch in range(4)}
WAYS = {
    "last_with_other_settings": (None, [*LAST, LONGER, "--model.group_size=3"], ON, "old", {"config.yaml"}),
    "newest": (None, ["--ckpt_path=old/checkpoints/step=4.ckpt", LONGER], ON, "old", {"config.yaml"}),
    "killed_and_the_newest_is_broken": (
        newest_is(4, broken=[3]), LAST, ON, "old", EVALUATED | {f"train-00000{batch}-r0.parquet" for batch in (2, 3)} | {"step=3.ckpt"},
    ),
    "killed_before_the_first": (
        newest_is(1, 2, 3, 4), [*LAST, "--seed_everything=1"], ON, "old",
        EVALUATED | TRAINED | {"config.yaml", "run.json"} | {f"val-00000{batch}-0000-r0.parquet" for batch in (0, 2)},
    ),
    "older_into_one_that_is_taken": (taken, ["--config=folder.yaml", "--ckpt_path=old/checkpoints/step=2.ckpt"], NEW, "new-2", set()),
    "older_in_its_own": (None, ["--ckpt_path=old/checkpoints/step=3.ckpt", "--run_dir=old"], REFUSED, "old_from_step=3", set()),
    "tried_out": (None, [*LAST, LONGER, "--trainer.fast_dev_run=true"], NEW, None, set()),
}  # fmt: skip
"""How the folder was left, what is typed, what happens, in which folder, and what is set aside there. Which run and checkpoint are meant
by other ways to name them, test_resume.py asks without a run."""


def folders():
    return [path for path in Path().iterdir() if path.is_dir() and not path.is_symlink()]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_lost(recorded, tmp_path, monkeypatch, capsys, caplog, way):
    """A run that goes on says where it keeps what it writes anew; one that branches off touches nothing."""
    prepare, args, outcome, folder, aside = WAYS[way]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(recorded[1], "old", symlinks=True)
    if prepare is not None:
        prepare(Path("old").absolute())
    fit = ["fit", f"--config={recorded[0]}", *args]
    others = {path: listing(path) for path in folders() if outcome != ON or path.name != folder}
    records = Records(Path(folder)) if outcome == ON else None
    if outcome == REFUSED:
        with pytest.raises(SystemExit) as stop:
            main(fit)
        assert stop.value.code == 1
        error = capsys.readouterr().err.splitlines()[0]
        assert re.match(r"error: `ckpt_path` .* is older than step=4.ckpt of the same run, .* would write over what came", error)
        assert set(folders()) == set(others)
        assert {path: listing(path) for path in others} == others
        typed = shlex.split(error[error.index("lightning_focal fit") :])
        fit = typed[1:]
    main(fit)
    assert {path: listing(path) for path in others} == others
    kept = Path(folder or "old") / "set_aside"
    assert {path.name for path in kept.rglob("*") if not path.is_dir()} == aside
    assert ("kept in" in caplog.text) == bool(aside)
    if aside:
        assert f"kept in {kept / next(kept.iterdir()).name}" in caplog.text
    if records is not None:
        assert records.lost(Records(Path(folder))) == []
        assert {path.name for path in folders()} == {*map(str, others), folder}
    elif folder is not None:
        (start,) = json.loads((Path(folder) / "run.json").read_text())["starts"]
        assert start["from"] == re.search(r"--ckpt_path=(\S+)", " ".join(args))[1].replace("last", "step=4")
        with open(Path(folder) / "metrics.csv", newline="") as file:
            assert int(next(csv.DictReader(file))["step"]) == start["batch"]


def test_a_branch_that_was_killed_early_begins_where_it_began(recorded, tmp_path, monkeypatch, caplog):
    """Before its first checkpoint; also where a scheduler starts the job again, whose command names that checkpoint still."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(recorded[1], "old", symlinks=True)
    origin = "old/checkpoints/step=2.ckpt"
    main(["fit", f"--config={recorded[0]}", f"--ckpt_path={origin}", "--run_dir=new", "--trainer.enable_checkpointing=false"])
    assert resume_from("last", "new", named=True) == (Path("new"), origin)
    assert f"the run in new has no checkpoint yet, it starts from {origin}" in caplog.text
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "new" / ".run").write_text("slurm 7")
    assert resume_from(origin, "new", named=True) == (None, origin)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resume_from(origin, "new", named=True) == (Path("new"), origin)
    shutil.copytree("old/checkpoints", "new/checkpoints", symlinks=True)
    assert resume_from(origin, "new", named=True) == (Path("new"), "new/checkpoints/step=4.ckpt")
