"""Processes of one run live and die together, end at the same step, and meet again when torchrun restarts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_focal.runs import ProcessWatch, end_with_parent, rejoin
from tests.processes import run_ranks
from tests.runs import ended as ended_runs
from tests.runs.test_signals import batches

ROOT = Path(__file__).parents[2]


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
    """Two processes that wait, as a Trainer has launched them, and a watch over them."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield (*watched(processes), *processes)
    for process in processes:
        process.kill()
        process.wait()


def watched(processes, seconds=0.05):
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=processes)), world_size=1 + len(processes))
    watch = ProcessWatch(seconds=seconds)
    watch.setup(trainer, None, "fit")
    return watch, trainer


def test_one_that_is_killed_ends_the_others_in_words(fellows, ended, caplog):
    *_, first, second = fellows
    second.send_signal(signal.SIGSEGV)
    assert ended.event.wait(20)
    assert ended.status == 1
    assert "process 2 of this run was ended by SIGSEGV; the others cannot go on without it" in caplog.text
    assert "--ckpt_path=last goes on with the run" in caplog.text
    assert first.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("status", [3, 0])
def test_one_that_fails_is_named_with_its_status_and_one_that_is_done_is_no_loss(ended, caplog, status):
    fellow = subprocess.Popen(["sh", "-c", f"exit {status}"])
    fellow.wait()
    watch, trainer = watched([fellow])
    assert ended.event.wait(20 if status else 0.5) == bool(status)
    assert ("process 1 of this run ended with status 3" in caplog.text) == bool(status)
    watch.teardown(trainer, None, "fit")


def test_the_failed_collective_leaves_the_word_to_the_watch(fellows, ended, caplog):
    """The first process meets a closed connection before it looks."""
    watch, trainer, first, _ = fellows
    first.kill()
    watch.on_exception(trainer, None, RuntimeError("Connection closed by peer"))
    assert ended.event.is_set()
    assert "process 1 of this run was ended by SIGKILL" in caplog.text


def test_nobody_looks_once_the_run_is_over(fellows, ended):
    watch, trainer, first, _ = fellows
    watch.teardown(trainer, None, "fit")
    first.kill()
    assert not ended.event.wait(0.5)
    with pytest.raises(ValueError, match=r"`ProcessWatch.seconds` must be > 0, got 0"):
        ProcessWatch(seconds=0)


def test_a_launched_process_ends_with_the_first_one(ended, monkeypatch, caplog):
    parent = os.getppid()
    end_with_parent(seconds=0.05)
    assert not ended.event.wait(0.3)
    monkeypatch.setattr(os, "getppid", lambda: 1 if parent != 1 else 2)  # as where the parent is gone
    assert ended.event.wait(20)
    assert ended.status == 1
    assert "the first process of this run is gone" in caplog.text


# -- two processes of a run, whichever of them is asked to end; one checkpoint for both, or none --------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ended")
    run_ranks(ended_runs.worker, str(folder), timeout=250)
    return folder


def notes(runs, name):
    return [json.loads((runs / f"{name}-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow  # two fresh processes
@pytest.mark.timeout(300)
def test_two_processes_end_together(runs):
    first, second = notes(runs, "training")  # SIGTERM to the second one alone
    assert (first["status"], second["status"]) == (143, 0)  # the first one speaks for both
    assert "ended by SIGTERM behind batch 2" in first["said"]
    assert "ended by SIGTERM" not in second["said"]
    assert abs(first["done"] - second["done"]) < 5
    assert batches(runs / "training") == 2
    first, second = notes(runs, "first_evaluation")  # before training: it is broken off
    assert (first["status"], second["status"]) == (143, 0)
    assert "ended by SIGTERM behind batch 0; nothing was saved yet: the same command starts again" in first["said"]
    assert not (runs / "first_evaluation" / "held_out.json").exists()
    assert not list((runs / "first_evaluation").glob("checkpoints/*.ckpt"))
    for note in notes(runs, "apart"):
        assert note["status"] not in (0, None)
        assert "would go on from different checkpoints" in note["said"]
        assert "step=4.ckpt" in note["said"]


# -- torchrun --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # four fresh processes
@pytest.mark.timeout(200)
def test_a_restart_does_not_meet_those_that_are_gone(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", f"--master-port={port}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, "-m", "tests.runs.restarted", str(tmp_path)], env=environment, cwd=ROOT, timeout=180)
    assert ended.returncode == 0
    assert [(tmp_path / f"1-{rank}").read_text() for rank in range(2)] == ["3", "3"]


def test_nothing_is_joined_at_a_first_start(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for count in ("0", ""):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        rejoin()  # would ask for the address
