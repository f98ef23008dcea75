"""Processes of one run live and die together."""

import os
import signal
import subprocess
import threading
from types import SimpleNamespace

import pytest

from lightning_focal.runs import ProcessWatch
from lightning_focal.runs.watch import end_with_parent


@pytest.fixture
def ended(monkeypatch):
    """Notes the status that this process would have ended with, and holds the thread that wanted it."""
    said = SimpleNamespace(event=threading.Event(), status=None)

    def end(status):
        said.status = status
        said.event.set()
        threading.Event().wait()

    monkeypatch.setattr(os, "_exit", end)
    return said


@pytest.fixture
def fellows():
    """Two processes that wait."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def trainer_of(processes):
    return SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=processes)), world_size=1 + len(processes))


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "was ended by SIGKILL"), (signal.SIGSEGV, "was ended by SIGSEGV")]
)
def test_one_that_is_killed_ends_the_others_in_words(fellows, ended, caplog, number, words):
    watch = ProcessWatch(seconds=0.05)
    watch.setup(trainer_of(fellows), None, "fit")
    fellows[1].send_signal(number)
    assert ended.event.wait(20)
    assert ended.status == 1
    assert f"process 2 of this run {words}; the others cannot go on without it" in caplog.text
    assert "--ckpt_path=last goes on with the run" in caplog.text
    assert fellows[0].wait(10) == -signal.SIGKILL


def test_one_that_fails_is_named_with_its_status(ended, caplog):
    failing = subprocess.Popen(["sh", "-c", "exit 3"])
    failing.wait()
    watch = ProcessWatch(seconds=0.05)
    watch.setup(trainer_of([failing]), None, "fit")
    assert ended.event.wait(20)
    assert "process 1 of this run ended with status 3" in caplog.text


def test_the_failed_collective_leaves_the_word_to_the_watch(fellows, ended, caplog):
    """The first process meets a closed connection before it looks."""
    watch = ProcessWatch(seconds=0.2)
    trainer = trainer_of(fellows)
    watch.setup(trainer, None, "fit")
    fellows[0].kill()
    watch.on_exception(trainer, None, RuntimeError("Connection closed by peer"))
    assert ended.event.is_set()
    assert "process 1 of this run was ended by SIGKILL" in caplog.text


def test_those_that_are_done_are_no_loss(ended):
    done = subprocess.Popen(["true"])
    done.wait()
    watch = ProcessWatch(seconds=0.05)
    watch.setup(trainer_of([done]), None, "fit")
    assert not ended.event.wait(0.5)
    watch.teardown(trainer_of([done]), None, "fit")


def test_nobody_looks_once_the_run_is_over(fellows, ended):
    watch = ProcessWatch(seconds=0.05)
    watch.setup(trainer_of(fellows), None, "fit")
    watch.teardown(trainer_of(fellows), None, "fit")
    fellows[0].kill()
    assert not ended.event.wait(0.5)


def test_a_launched_process_ends_with_the_first_one(ended, monkeypatch, caplog):
    parent = os.getppid()
    end_with_parent(seconds=0.05)
    assert not ended.event.wait(0.3)
    monkeypatch.setattr(os, "getppid", lambda: 1 if parent != 1 else 2)  # as where the parent is gone
    assert ended.event.wait(20)
    assert ended.status == 1
    assert "the first process of this run is gone" in caplog.text


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`ProcessWatch.seconds` must be > 0, got 0"):
        ProcessWatch(seconds=0)
