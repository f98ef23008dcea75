"""Processes that torchrun starts again find each other, also where one is quicker than the other."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_focal.runs.rejoin import rejoin

ROOT = Path(__file__).parents[2]


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow  # four fresh processes
@pytest.mark.timeout(200)
def test_a_restart_does_not_meet_those_that_are_gone(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", f"--master-port={port()}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*command, "-m", "tests.runs.restarted", str(tmp_path)], env=environment, cwd=ROOT, timeout=180)
    assert ended.returncode == 0
    assert [(tmp_path / f"1-{rank}").read_text() for rank in range(2)] == ["3", "3"]


def test_nothing_is_joined_at_a_first_start(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for count in ("0", ""):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        trainer = type("NoTrainer", (), {"strategy": object()})()
        rejoin(trainer)  # would ask the strategy
