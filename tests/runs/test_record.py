"""run.json: command, versions and commit of every start."""

import json
import subprocess
import sys
from pathlib import Path

from lightning_focal.runs.record import commit, record_end, record_start
from tests.conftest import rubric_rows, write_rows


def starts(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["starts"]


def test_start_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lightning_focal", "fit", "--run_dir", "a folder"])
    record_start(tmp_path, 0, "cpu")
    (start,) = starts(tmp_path)
    assert start["command"] == "lightning_focal fit --run_dir 'a folder'"
    assert (start["batch"], start["ended"], start["device"]) == (0, False, "cpu")
    assert start["torch"].startswith("2.")
    record_end(tmp_path)
    assert starts(tmp_path)[0]["ended"] is True


def test_the_module_is_a_command_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/lightning_focal/__main__.py", "fit"])
    record_start(tmp_path, 0, "cpu")
    assert starts(tmp_path)[0]["command"] == "python -m lightning_focal fit"


def test_a_resumed_run_has_two_starts_and_one_that_begins_again_has_one(tmp_path):
    record_start(tmp_path, 0, "cpu")
    record_start(tmp_path, 4, "cpu")
    assert [start["batch"] for start in starts(tmp_path)] == [0, 4]
    record_start(tmp_path, 2, "cpu")  # from an older checkpoint
    assert [start["batch"] for start in starts(tmp_path)] == [0, 2]
    record_start(tmp_path, 0, "cpu")
    assert [start["batch"] for start in starts(tmp_path)] == [0]


def test_a_broken_record_is_begun_anew(tmp_path):
    (tmp_path / "run.json").write_text('{"starts": 3')
    record_end(tmp_path)  # nothing to note
    record_start(tmp_path, 3, "cpu")
    assert [start["batch"] for start in starts(tmp_path)] == [3]


def test_commit_is_that_of_the_checkout():
    root = Path(__file__).resolve().parents[2]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    known = commit()
    if git.returncode:  # an archive without its history
        assert known is None
    else:
        assert known.removesuffix("+changes") == git.stdout.strip()


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_fit_keeps_it(tmp_path, run_tiny):
    from lightning_focal.runs import RunRecord

    run_tiny(None, RunRecord(), data_train=str(write_rows(tmp_path / "t.jsonl", rubric_rows(4))))
    (start,) = starts(tmp_path / "run")
    assert start["ended"] is True
    assert start["device"].startswith("cpu")
