"""Which folder a run writes to."""

import multiprocessing
import time

import pytest

from lightning_focal.runs import folder as folder_module
from lightning_focal.runs import release, run_folder
from tests.runs.racing import claim


@pytest.mark.parametrize("name", ["run", "run.v1"])
def test_new_folders_are_numbered(tmp_path, name):
    began = time.monotonic()
    assert [run_folder(tmp_path / "deep" / name).name for _ in range(3)] == [name, f"{name}-2", f"{name}-3"]
    assert time.monotonic() - began < 5
    assert (tmp_path / "deep" / f"{name}-3").is_dir()


def test_a_folder_in_use_is_left_alone_and_an_empty_one_may_be_used(tmp_path):
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert run_folder(tmp_path / "full") == tmp_path / "full-2"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert run_folder(str(tmp_path / "empty")) == tmp_path / "empty"


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    checkpoint = run_folder(tmp_path / "run") / "checkpoints" / "last.ckpt"
    assert run_folder(tmp_path / "other", str(checkpoint)) == tmp_path / "run"
    assert not (tmp_path / "other").exists()
    assert run_folder(tmp_path / "new", str(tmp_path / "download" / "model.ckpt")) == tmp_path / "new"


def test_processes_that_race_get_different_folders(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    racers = [context.Process(target=claim, args=(barrier, folder_module.__file__, str(tmp_path), 20, queue)) for _ in range(2)]
    for racer in racers:
        racer.start()
    try:
        names = queue.get(timeout=60) + queue.get(timeout=60)
    finally:
        for racer in racers:
            racer.join(10)
            racer.kill()
    assert len(set(names)) == 40
    assert set(names) == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kept", [None, "metrics.csv", "checkpoints/last.ckpt"])
def test_a_run_that_failed_before_it_began_gives_its_folder_back(tmp_path, kept):
    folder = run_folder(tmp_path / "run")
    (folder / "config.yaml").touch()
    if kept is not None:
        (folder / kept).parent.mkdir(exist_ok=True)
        (folder / kept).touch()
    release(folder)
    assert folder.exists() == (kept is not None)
    assert kept is None or {(folder / kept).exists(), (folder / ".run").exists()} == {True}
    release(tmp_path / "gone already")
