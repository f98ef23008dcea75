"""A resumed run and its metrics.csv."""

import csv
import shutil
from types import SimpleNamespace

from lightning.pytorch import Callback

from lightning_focal.callbacks import HeldOut
from lightning_focal.runs import CSVLog, RunFolder
from tests.conftest import rubric_rows, write_rows
from tests.helpers import FakeTrainer


def table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "/time/" not in k} for row in csv.DictReader(file)]


def test_rows_behind_the_checkpoint_are_dropped(tmp_path):
    log = CSVLog(tmp_path)
    for step in range(5):
        log.log_metrics({"a": float(step)}, step=step)
    trainer = FakeTrainer(tmp_path, batches=3, ckpt_path="x/checkpoints/last.ckpt")
    trainer.loggers = [SimpleNamespace(), log]
    RunFolder().on_train_start(trainer, None)
    assert [row["step"] for row in table(tmp_path)] == ["0", "1", "2"]  # the rows of three batches


def test_a_new_run_drops_nothing(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, step=4)
    trainer = FakeTrainer(tmp_path)
    trainer.loggers = [log]
    RunFolder().on_train_start(trainer, None)
    assert len(table(tmp_path)) == 1


class SaveOften(Callback):
    """Checkpoints named after the number of batches and the hook that wrote them."""

    def save(self, trainer, hook):
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        trainer.save_checkpoint(f"{trainer.default_root_dir}/checkpoints/{hook}-{batches}.ckpt")

    def on_train_batch_end(self, trainer, *args):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, *args):
        self.save(trainer, "validation")


def test_a_resumed_runs_metrics_are_those_of_one_that_never_stopped(tmp_path, run_tiny):
    """Two epochs of three batches with a validation each; the run goes on behind the checkpoint, and is then resumed."""
    arguments = {
        "data_val": str(write_rows(tmp_path / "val.jsonl", rubric_rows(2))),
        "data_limit_train": 6,
        "trainer_max_epochs": 2,
    }
    whole = run_tiny(None, HeldOut(), SaveOften(), **arguments)
    expected = table(whole.folder)
    assert [row["step"] for row in expected] == [str(step) for step in range(6)]
    for checkpoint in ("batch-2", "batch-3", "validation-3"):
        folder = shutil.copytree(whole.folder, tmp_path / checkpoint)
        run_tiny(None, HeldOut(), folder=checkpoint, ckpt_path=str(folder / "checkpoints" / f"{checkpoint}.ckpt"), **arguments)
        assert table(folder) == expected, checkpoint
