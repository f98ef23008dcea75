"""Keeps the run folder in step with the checkpoint a run resumes from."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_focal.runs.csv_log import CSVLog

__all__ = ["RunFolder"]


class RunFolder(Callback):
    """On resume, drops what was logged behind the checkpoint: it is about to be written again."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See the class."""
        if trainer.ckpt_path is None:
            return
        done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.forget_after(done - 1)
