"""Which folder a run writes to."""

import multiprocessing
import time

import pytest

from lightning_focal.runs import folder as folder_module
from lightning_focal.runs import release, run_folder
from tests.runs.racing import claim


def test_new_folders_are_numbered(tmp_path):
    assert [run_folder(tmp_path / "deep" / "run").name for _ in range(3)] == ["run", "run-2", "run-3"]
    assert (tmp_path / "deep" / "run-3").is_dir()


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run_folder(tmp_path / "run") == tmp_path / "run-2"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    assert run_folder(str(tmp_path / "run")) == tmp_path / "run"


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    checkpoint = run_folder(tmp_path / "run") / "checkpoints" / "last.ckpt"
    assert run_folder(tmp_path / "other", str(checkpoint)) == tmp_path / "run"
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_from_elsewhere_makes_a_new_folder(tmp_path):
    assert run_folder(tmp_path / "run", str(tmp_path / "download" / "model.ckpt")) == tmp_path / "run"


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


@pytest.mark.parametrize("name", ["run", "run.v1"])
def test_the_number_is_put_behind_the_whole_name(tmp_path, name):
    run_folder(tmp_path / name)
    began = time.monotonic()
    assert run_folder(tmp_path / name).name == f"{name}-2"
    assert time.monotonic() - began < 5


def test_a_run_that_failed_before_it_began_gives_its_folder_back(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "config.yaml").touch()
    release(folder)
    assert list(tmp_path.iterdir()) == []
    release(folder)  # gone already


@pytest.mark.parametrize("kept", ["metrics.csv", "checkpoints/last.ckpt"])
def test_nothing_of_worth_is_released(tmp_path, kept):
    folder = run_folder(tmp_path / "run")
    (folder / kept).parent.mkdir(exist_ok=True)
    (folder / kept).touch()
    release(folder)
    assert (folder / kept).exists()
    assert (folder / ".run").exists()
