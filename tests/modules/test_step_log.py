import torch
from lightning.pytorch import Callback

from lightning_focal.modules import grpo, step_log
from tests.modules.helpers import metrics


class AlsoLogs(Callback):
    """Logs a value of its own, into the same row; remembers what callbacks see."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("train/own", float(batch_idx))
        self.seen.append(float(trainer.callback_metrics["train/reward/mean"]))


def plainly(module, values, batch_size):
    module.log_dict(dict(values), batch_size=batch_size, rank_zero_only=False)


def test_rows_are_those_of_log_dict(run_tiny, monkeypatch):
    """Two epochs of four batches, the second of every two logged."""
    rows, seen = {}, {}
    for name in ("quick", "plain"):
        watcher = AlsoLogs()
        run = run_tiny(None, watcher, folder=name, trainer_max_epochs=2, trainer_log_every_n_steps=2)
        rows[name], seen[name] = metrics(run.folder), watcher.seen
        monkeypatch.setattr(grpo, "log_step", plainly)
    assert len(rows["quick"]) >= 4
    assert rows["quick"] == rows["plain"]
    assert seen["quick"] == seen["plain"]
    assert len(set(seen["quick"])) > 4


def test_a_new_name_goes_through_log_dict(run_tiny, monkeypatch):
    calls, quick = [], step_log.log_step

    def with_more(module, values, batch_size):
        more = {"train/late": torch.tensor(1.0).item()} if module.version > 2 else {}
        log_dict = module.log_dict
        module.log_dict = lambda *a, **k: calls.append(module.version) or log_dict(*a, **k)
        quick(module, {**values, **more}, batch_size)
        del module.log_dict

    monkeypatch.setattr(grpo, "log_step", with_more)
    run = run_tiny()
    assert calls == [1, 3]  # the first batch, and the one with a new name
    assert float(run.trainer.callback_metrics["train/late"]) == 1.0
