"""A run that is asked to end saves first, and says how it goes on."""

import os
import signal

import pytest
import torch
import yaml

from lightning_focal.cli import main
from lightning_focal.runs import last_checkpoint
from tests.runs.killed import same_run
from tests.runs.test_saving import configuration, fit


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run that was let alone."""
    top = tmp_path_factory.mktemp("plain")
    return fit(configuration(top, checkpoint={"every_n_batches": None}), top / "run")


@pytest.fixture
def signalled(tmp_path):
    """Write a configuration in which a signal comes in the given batch; nothing is saved by the clock."""

    def write(number, batch):
        config = configuration(tmp_path, checkpoint={"every_n_batches": None})
        content = yaml.safe_load(config.read_text())
        arguments = {"number": int(number), "batch": batch}
        content["trainer"]["callbacks"].append({"class_path": "tests.runs.killed.Signalled", "init_args": arguments})
        (tmp_path / "signalled.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "signalled.yaml"

    return write


def batches(folder):
    saved = torch.load(last_checkpoint(folder), weights_only=True)
    return saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]


@pytest.mark.parametrize("batch", [1, 2, 3])  # within an epoch, before a validation, at an epoch's end
def test_sigterm_saves_behind_the_batch_and_leaves(signalled, tmp_path, plain, caplog, batch):
    with pytest.raises(SystemExit) as stop:
        fit(signalled(signal.SIGTERM, batch), tmp_path / "run")
    assert stop.value.code == 143
    assert batches(tmp_path / "run") == batch + 1
    assert "SIGTERM: the batch under way is finished and saved first" in caplog.text
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"ended by SIGTERM behind batch {batch + 1}; the same command with --ckpt_path={last} goes on" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    fit(tmp_path / "config.yaml", tmp_path / "run", f"--ckpt_path={last}")
    assert same_run(tmp_path / "run", plain) == []


def test_sigterm_in_the_last_batch_lets_the_run_end(signalled, tmp_path, plain):
    fit(signalled(signal.SIGTERM, 7), tmp_path / "run")
    assert same_run(tmp_path / "run", plain) == []


@pytest.mark.parametrize("batch", [0, 5])  # before anything was saved, and behind an epoch
def test_ctrl_c_leaves_at_once(signalled, tmp_path, plain, caplog, batch):
    with pytest.raises(SystemExit) as stop:
        fit(signalled(signal.SIGINT, batch), tmp_path / "run")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored, the process is about to end
    assert stop.value.code == 130
    advice = f"the same command with --ckpt_path={tmp_path / 'run'}/checkpoints/last.ckpt goes on"
    assert f"stopped by Ctrl-C; {advice if batch else 'nothing was saved yet: the same command starts again'}" in caplog.text
    if batch:
        fit(tmp_path / "config.yaml", tmp_path / "run", "--ckpt_path=last")
        assert same_run(tmp_path / "run", plain) == []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """As in a SLURM job of one task; `scontrol` notes what it is told."""
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
    return tmp_path / "told"


def test_slurm_requeues_behind_the_batch_and_the_job_goes_on_by_itself(slurm, signalled, tmp_path, plain, caplog, monkeypatch):
    """A minute before the time is over SLURM sends SIGUSR1; once requeued, the job is sent SIGTERM, and started again."""
    config = signalled(signal.SIGUSR1, 1)
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"].append(
        {"class_path": "tests.runs.killed.Signalled", "init_args": {"number": int(signal.SIGTERM), "batch": 3}}
    )
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as stop:
        fit(config, tmp_path / "run")
    assert stop.value.code == 143
    assert slurm.read_text() == "requeue 123\n"
    saved = torch.load(tmp_path / "run" / "hpc_ckpt_1.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 2
    assert batches(tmp_path / "run") == 4
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    main(["fit", f"--config={tmp_path / 'config.yaml'}", f"--run_dir={tmp_path / 'run'}"])
    assert "this job was started again: the run in" in caplog.text
    assert not (tmp_path / "run-2").exists()
    (tmp_path / "run" / "hpc_ckpt_1.ckpt").unlink(missing_ok=True)
    assert same_run(tmp_path / "run", plain) == []


def test_another_job_of_the_same_name_starts_anew(slurm, tmp_path, plain, monkeypatch):
    config = configuration(tmp_path)
    fit(config, tmp_path / "run", "--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "124")
    fit(config, tmp_path / "run", "--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    assert (tmp_path / "run-2" / "metrics.csv").exists()
