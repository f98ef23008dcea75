"""Which folder a run writes to."""

import errno
import os
import re
import resource

import pytest

from lightning_focal.cli import main
from lightning_focal.runs import release, run_folder
from tests.conftest import TINY
from tests.runs.alone import alone, tell


def test_new_folders_are_numbered_one_in_use_is_left_alone_and_an_empty_one_may_be_used(tmp_path):
    for name in ("run", "run.v1"):
        assert [run_folder(tmp_path / "deep" / name).name for _ in range(3)] == [name, f"{name}-2", f"{name}-3"]
        assert (tmp_path / "deep" / f"{name}-3").is_dir()
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert run_folder(tmp_path / "full") == tmp_path / "full-2"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert run_folder(str(tmp_path / "empty")) == tmp_path / "empty"


def refusing(name, number):
    """A call of the system that fails, as on a disk that is full or one that may not be written to."""

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return name, refuse


@pytest.mark.parametrize(("broken", "words"), [
    ("run", "a file is in its place"),
    ("", "Not a directory"),
    (refusing("mkdir", errno.EROFS), "Read-only file system"),
    (refusing("open", errno.EACCES), "Permission denied"),
    (refusing("write", errno.ENOSPC), "No space left on device"),
])  # fmt: skip
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch, broken, words):
    wanted = tmp_path / "deep" / "run"
    if isinstance(broken, str):
        (tmp_path / "deep" / broken).parent.mkdir(exist_ok=True)
        (tmp_path / "deep" / broken).write_text("mine") if broken else (tmp_path / "deep").write_text("mine")
    else:
        monkeypatch.setattr(os, *broken)
    with pytest.raises(OSError, match=words) as error:
        run_folder(wanted)
    monkeypatch.undo()
    assert str(error.value) == f"the run folder {wanted} cannot be written to: {words}; `run_dir` names another"
    assert not wanted.is_dir() or list(wanted.iterdir()) == []


@pytest.mark.parametrize("bytes_left", [10, 5000])  # config.yaml does not fit, the first evaluation's file does not
def test_a_disk_that_is_full_at_the_start_is_one_line(tmp_path, rubric_file, capsys, bytes_left):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    args = ["--data=RubricDataModule", f"--data.train={rubric_file()}", f"--data.val={rubric_file(2, 'val.jsonl')}"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--reward=StaticReward", f"--model.policy={TINY}", *args, f"--run_dir={tmp_path / 'run'}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stop.value.code == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert re.fullmatch(
        f"error: the run folder {tmp_path / 'run'} cannot be written to: .*File too large.*; `run_dir` names another", error
    )


def test_processes_that_race_get_different_folders(tmp_path):
    racers = [alone("print(*(folder.run_folder(top / 'run').name for _ in range(100)))", tmp_path) for _ in range(2)]
    for racer in racers:
        tell(racer)
    names = " ".join(racer.communicate(timeout=60)[0] for racer in racers).split()
    assert len(set(names)) == 200
    assert set(names) == {path.name for path in tmp_path.iterdir()}


def test_a_run_that_failed_before_it_began_gives_its_folder_back(tmp_path):
    for kept in (None, "metrics.csv", "checkpoints/last.ckpt"):
        folder = run_folder(tmp_path / "run")
        (folder / "config.yaml").touch()
        if kept is not None:
            (folder / kept).parent.mkdir(exist_ok=True)
            (folder / kept).touch()
        release(folder)
        assert folder.exists() == (kept is not None)
        assert kept is None or {(folder / kept).exists(), (folder / ".run").exists()} == {True}
    release(tmp_path / "gone already")
