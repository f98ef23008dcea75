"""A run that is asked to end saves first, and says how it goes on."""

import os
import signal

import pytest
import torch
import yaml

from lightning_focal.runs import last_checkpoint
from tests.runs.killed import same_run
from tests.runs.test_saving import configuration, fit


@pytest.fixture
def signalled(tmp_path):
    """Write a configuration in which signals come in the given batches; nothing is saved by the clock."""

    def write(*moments):
        config = configuration(tmp_path, checkpoint={"every_n_batches": None})
        content = yaml.safe_load(config.read_text())
        content["trainer"]["callbacks"] += [
            {"class_path": "tests.runs.killed.Signalled", "init_args": {"number": int(number), "batch": batch}}
            for number, batch in moments
        ]
        (tmp_path / "signalled.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "signalled.yaml"

    return write


def batches(folder):
    return processed(last_checkpoint(folder))


def processed(path):
    return torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]


def test_a_run_that_is_ended_time_and_again_ends_as_the_one_let_alone(signalled, tmp_path, whole, caplog):
    """By Ctrl-C before anything was saved and behind an epoch, by SIGTERM within an epoch, before a validation and at an epoch's end."""
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    for number, batch in ((signal.SIGINT, 0), *((signal.SIGTERM, batch) for batch in (1, 2, 3)), (signal.SIGINT, 5)):
        caplog.clear()
        with pytest.raises(SystemExit) as stop:
            fit(signalled((number, batch)), folder, *(["--ckpt_path=last"] if batch else []))
        assert stop.value.code == 128 + number
        if number == signal.SIGTERM:
            assert batches(folder) == batch + 1
            assert "SIGTERM: the batch under way is finished and saved first" in caplog.text
            assert f"ended by SIGTERM behind batch {batch + 1}; the same command with --ckpt_path={last} goes on" in caplog.text
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        else:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored, the process is about to end
            advice = f"the same command with --ckpt_path={last} goes on"
            assert f"Ctrl-C; {advice if batch else 'nothing was saved yet: the same command starts again'}" in caplog.text
    fit(signalled((signal.SIGTERM, 7)), folder, f"--ckpt_path={last}")  # in the last batch it lets the run end
    assert same_run(folder, whole[1]) == []
    assert not (tmp_path / "run-2").exists()


def test_slurm_requeues_behind_the_batch_and_the_job_goes_on_by_itself(signalled, tmp_path, whole, caplog, monkeypatch):
    """A minute before the time is over SLURM sends SIGUSR1; once requeued, the job is sent SIGTERM, and started again.

    As in a job of one task; `scontrol` notes what it is told. Another job of the same name starts anew."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "scontrol"
    script.write_text(f"#!/bin/sh\necho $@ >> {tmp_path / 'told'}\n")
    script.chmod(0o755)
    job = {"SLURM_JOB_ID": "123", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    config, folder = signalled((signal.SIGUSR1, 1), (signal.SIGTERM, 3)), tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        fit(config, folder)
    assert stop.value.code == 143
    assert (tmp_path / "told").read_text() == "requeue 123\n"
    assert processed(folder / "hpc_ckpt_1.ckpt") == 2
    assert batches(folder) == 4
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    fit(tmp_path / "config.yaml", folder)
    assert "this job was started again: the run in" in caplog.text
    assert not (tmp_path / "run-2").exists()
    (folder / "hpc_ckpt_1.ckpt").unlink(missing_ok=True)
    assert same_run(folder, whole[1]) == []
    monkeypatch.setenv("SLURM_JOB_ID", "124")
    fit(tmp_path / "config.yaml", folder, "--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    assert (tmp_path / "run-2" / "metrics.csv").exists()
