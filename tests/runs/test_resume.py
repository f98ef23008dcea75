"""What `--ckpt_path` means."""

import os
import time

import pytest
import torch

from lightning_focal.runs import RUN_FOLDER_ENV, let_go, resume_from, run_folder, take
from lightning_focal.runs.folder import in_use
from lightning_focal.runs.resume import Resume
from tests.runs.alone import alone, tell
from tests.runs.test_broken import flip, save


def run_with(folder, *steps):
    """A run folder with checkpoints."""
    folder = run_folder(folder)
    for step in steps:
        save(folder / "checkpoints" / f"step={step}.ckpt", age=100 - step, global_step=step)
    if steps:
        (folder / "checkpoints" / "last.ckpt").symlink_to(f"step={steps[-1]}.ckpt")
    return folder


def checkpoint(folder, step):
    return str(folder / "checkpoints" / f"step={step}.ckpt")


def test_last_is_the_newest_of_the_run_written_to_last(tmp_path, caplog):
    """The same command twice, the second one killed."""
    first, second = run_with(tmp_path / "run", 2, 9), run_with(tmp_path / "run", 2, 4)
    assert second.name == "run-2"
    assert resume_from(None, tmp_path / "run") == Resume(None, None)
    assert resume_from("last", tmp_path / "run") == Resume(second, checkpoint(second, 4))
    assert f"--ckpt_path=last: the run in {second} goes on from step=4.ckpt" in caplog.text
    (first / "metrics.csv").touch()
    os.utime(first / "metrics.csv", (time.time() + 10,) * 2)
    assert resume_from("last", tmp_path / "run") == Resume(first, checkpoint(first, 9))


def test_a_run_without_a_checkpoint_starts_anew_in_its_folder(tmp_path, caplog):
    assert resume_from("last", tmp_path / "run") == Resume(None, None)
    assert f"there is no run in {tmp_path / 'run'} yet, training starts from the beginning" in caplog.text
    folder = run_with(tmp_path / "run")
    assert resume_from("last", tmp_path / "run") == Resume(folder, None)
    assert f"the run in {folder} has no checkpoint yet, it starts from the beginning" in caplog.text
    with pytest.raises(FileNotFoundError, match="`ckpt_path` is last, but there is no whole checkpoint in"):
        resume_from("last", tmp_path / "run", fit=False)


def test_last_by_its_path_is_the_newest_whole_one(tmp_path, caplog):
    folder = run_with(tmp_path / "run", 2, 4)
    last = str(folder / "checkpoints" / "last.ckpt")
    assert resume_from(last, tmp_path / "other") == Resume(folder, checkpoint(folder, 4))
    flip(folder / "checkpoints" / "step=4.ckpt")
    assert resume_from(last, tmp_path / "other", fit=False) == Resume(folder, checkpoint(folder, 2))
    assert "is passed over: the checksum of" in caplog.text
    assert f"{checkpoint(folder, 2)} is used in its place" in caplog.text


def test_a_run_is_known_by_its_number_and_through_a_link(tmp_path):
    first, second = run_with(tmp_path / "run", 2, 4), run_with(tmp_path / "run", 2, 4)
    (tmp_path / "alias").symlink_to(first)
    for run, wanted in ((first, tmp_path / "alias"), (second, tmp_path / "run")):
        assert resume_from(checkpoint(run, 4), wanted, named=True) == Resume(run, checkpoint(run, 4))
        with pytest.raises(ValueError, match=f"older than step=4.ckpt of the same run, .* --run_dir={run}_from_step=2$"):
            resume_from(checkpoint(run, 2), wanted, named=True)
    for path in (checkpoint(first, 4), str(first / "checkpoints" / "last.ckpt")):  # the newest may begin a branch, too
        assert resume_from(path, tmp_path / "new", named=True) == Resume(None, checkpoint(first, 4))


def test_another_path_is_taken_at_its_word(tmp_path):
    folder = run_with(tmp_path / "run", 2, 4)
    assert resume_from(checkpoint(folder, 4), tmp_path / "run") == Resume(folder, checkpoint(folder, 4))
    assert resume_from(checkpoint(folder, 2), tmp_path / "run", fit=False) == Resume(folder, checkpoint(folder, 2))
    assert resume_from(checkpoint(folder, 2), tmp_path / "new", named=True) == Resume(None, checkpoint(folder, 2))
    branch = f"the same command with --run_dir={folder}_from_step=2"
    for named in (True, False):
        with pytest.raises(ValueError, match=f"step=2.ckpt is older than step=4.ckpt of the same run, .* {branch}$"):
            resume_from(checkpoint(folder, 2), tmp_path / "run", named=named)
    flip(folder / "checkpoints" / "step=2.ckpt")
    with pytest.raises(ValueError, match=r"step=2.ckpt is broken and cannot be read: the checksum .*; whole is .*step=4.ckpt"):
        resume_from(checkpoint(folder, 2), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="must be an existing checkpoint"):
        resume_from(checkpoint(folder, 3), tmp_path / "run")
    assert resume_from("https://example.org/a.ckpt", "run").path == "https://example.org/a.ckpt"
    weights = str(tmp_path / "weights.ckpt")
    torch.save({"state_dict": {}}, weights)
    assert resume_from(weights, "run", fit=False).path == weights
    with pytest.raises(ValueError, match="it holds weights alone"):
        resume_from(weights, "run")


# -- several processes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path):
    """A run folder that another process is at work in, until it is killed."""
    folder = run_with(tmp_path / "run", 4)
    process = alone("folder.take(top); print('held', flush=True); time.sleep(60)", folder)
    tell(process)
    assert process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


def test_a_run_that_is_going_on_is_not_taken_over(held, tmp_path):
    folder, process = held
    assert in_use(folder)
    with pytest.raises(ValueError, match=r"the run in .*run is still going on: another process writes there"):
        take(folder)
    assert resume_from("last", tmp_path / "run") == Resume(None, None)  # not this one: the newest that nobody works on
    other = run_with(tmp_path / "run", 2)
    assert resume_from("last", tmp_path / "run").folder == other
    process.kill()
    process.wait()
    assert not in_use(folder)
    take(folder)
    take(folder)  # it is ours
    assert not in_use(folder)
    let_go()


def test_every_process_means_the_same_run(tmp_path, caplog, monkeypatch, held):
    """torchrun's know it by the name asked for, though the first one may hold it already; Lightning's are told, and look in silence."""
    folder, _ = held
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        assert RUN_FOLDER_ENV not in os.environ
        assert resume_from("last", tmp_path / "run") == Resume(folder, checkpoint(folder, 4))
    monkeypatch.setenv(RUN_FOLDER_ENV, str(tmp_path / "run-7"))
    known = run_with(tmp_path / "run-7", 2, 4)
    assert resume_from("last", tmp_path / "run", folder=known) == Resume(known, checkpoint(known, 4))
    assert caplog.text == ""


def test_a_job_that_torchrun_starts_again_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    run_with(tmp_path / "run", 9)
    folder = run_with(tmp_path / "run", 4)
    assert resume_from(None, tmp_path / "run") == Resume(None, None)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert resume_from(None, tmp_path / "run") == Resume(folder, checkpoint(folder, 4))
    assert resume_from(None, tmp_path / "run", fit=False) == Resume(None, None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert resume_from(None, tmp_path / "run") == Resume(None, None)
