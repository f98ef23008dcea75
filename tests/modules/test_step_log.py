import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_focal.modules.step_log import StepLog
from tests.modules.helpers import column, metrics


class AlsoLogs(Callback):
    """Logs a value of its own, into the same row; remembers what callbacks see."""

    def __init__(self):
        self.seen, self.names = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("train/own", float(batch_idx), prog_bar=True)
        self.seen.append(
            [float(trainer.callback_metrics["train/reward/mean"]), float(trainer.logged_metrics["train/loss/policy"])]
        )
        self.names.append((sorted(trainer.callback_metrics), sorted(trainer.progress_bar_metrics)))


class StopsAt(Callback):
    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = batch_idx == self.batch


@pytest.fixture
def plainly(monkeypatch):
    """Log by Lightning's own `log_dict` from here on."""

    def switch():
        def log_dict(self, module, values):
            module.log_dict(dict(values), batch_size=2, rank_zero_only=False)

        monkeypatch.setattr(StepLog, "show", log_dict)

    return switch


def events(folder):
    """``{name: [(step, value)]}`` of TensorBoard, without times and doubles."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: sorted({(event.step, repr(event.value)) for event in found.Scalars(name)})  # NaN equals itself
        for name in found.Tags()["scalars"]
        if "/time/" not in name
    }


def test_everything_is_as_with_log_dict(run_tiny, plainly):
    """Two epochs of four batches, the second of every two logged, with TensorBoard beside metrics.csv."""
    rows, seen, names, scalars, final = ([] for _ in range(5))
    for name in ("direct", "plain"):
        watcher = AlsoLogs()
        run = run_tiny(None, watcher, folder=name, fit=False, trainer_max_epochs=2, trainer_log_every_n_steps=2)
        run.trainer.loggers = [*run.trainer.loggers, TensorBoardLogger(run.folder, name="", version="events")]
        run.trainer.fit(run.module, datamodule=run.data)
        rows.append(metrics(run.folder))
        seen.append(watcher.seen)
        names.append(watcher.names)
        scalars.append(events(run.folder / "events"))
        final.append({k: repr(float(v)) for k, v in run.trainer.callback_metrics.items() if "/time/" not in k})
        plainly()
    assert len(rows[0]) >= 4
    assert rows[0] == rows[1]
    assert seen[0] == seen[1]
    assert len({reward for reward, _ in seen[0]}) > 4
    assert names[0] == names[1]
    assert scalars[0] == scalars[1]
    assert [step for step, _ in scalars[0]["train/reward/mean"]] == [1, 3, 5, 7]
    assert final[0] == final[1]


def test_the_last_row_of_a_run_that_is_stopped_is_written(run_tiny, plainly):
    steps = []
    for name in ("direct", "plain"):
        run = run_tiny(None, StopsAt(2), folder=name, trainer_log_every_n_steps=2)
        steps.append([row["step"] for row in metrics(run.folder) if row["train/reward/mean"] != ""])
        plainly()
    assert steps == [["1", "2"]] * 2


@pytest.mark.parametrize(("every", "rows"), [(0, 0), (3, 1)])
def test_which_batches_are_written(run_tiny, every, rows):
    file = run_tiny(trainer_log_every_n_steps=every).folder / "metrics.csv"
    assert (len(column(file.parent, "train/reward/mean")) if file.exists() else 0) == rows


def test_a_checkpoint_can_watch_any_value(run_tiny, tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="train/reward/mean", mode="max", every_n_train_steps=1, save_top_k=1)
    run = run_tiny(None, best, trainer_enable_checkpointing=True)
    rewards = column(run.folder, "train/reward/mean")
    assert float(best.best_model_score) == pytest.approx(max(rewards))
    assert best.best_model_score.device == torch.device("cpu")


def test_values_are_rounded_as_log_does_in_any_default_precision(run_tiny):
    run = run_tiny(fit=False)
    run.module.trainer = run.trainer
    for default, expected in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        torch.set_default_dtype(default)
        try:
            StepLog().show(run.module, {"a": 0.1})
        finally:
            torch.set_default_dtype(torch.float32)
        assert run.trainer.callback_metrics["a"].equal(torch.tensor(0.1, dtype=expected))
