"""Keeps the run folder in step with the checkpoint a run resumes from, and says there how it was started."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_focal.runs.csv_log import CSVLog
from lightning_focal.runs.events import EventLog
from lightning_focal.runs.record import record_end, record_start
from lightning_focal.runs.saving import RunCheckpoint

__all__ = ["RunFolder", "RunRecord"]


class RunFolder(Callback):
    """Drops what was logged behind the checkpoint a run goes on from: it is about to be written again.

    A run that begins anew in the folder of one that was killed before its first checkpoint drops everything. As the first callback
    of a run it also has the run's checkpoints listen to signals before anybody evaluates anything.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen from here on."""
        _listen(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without a checkpoint: before anything is logged."""
        if trainer.ckpt_path is None:
            _forget(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """With one: as soon as it is restored."""
        _listen(trainer)
        if trainer.ckpt_path is not None:
            _forget(trainer)


def _listen(trainer: Trainer) -> None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, RunCheckpoint):
            callback.signals.listen(trainer)


def _forget(trainer: Trainer) -> None:
    done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
    for logger in trainer.loggers:
        if isinstance(logger, (CSVLog, EventLog)):
            logger.forget_after(done - 1)


class RunRecord(Callback):
    """Keeps ``run.json``: command, versions, commit and device of every start, and whether the run came to its end."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a start."""
        done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        folder = trainer.log_dir  # a collective: asked for on every process
        if trainer.is_global_zero and folder is not None:
            record_start(folder, done, _device(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end."""
        folder = trainer.log_dir
        if trainer.is_global_zero and folder is not None:
            record_end(folder)


def _device(trainer: Trainer) -> str:
    root = trainer.strategy.root_device
    name = torch.cuda.get_device_name(root) if root.type == "cuda" else f"{root.type}, {torch.get_num_threads()} threads"
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
