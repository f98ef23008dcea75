"""Logging a training batch without paying Lightning's price for every value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_focal.callbacks.observer import batches_done

__all__ = ["StepLog"]


class StepLog:
    """Shows and writes what ``log_dict`` would in `training_step`, at a hundredth of its cost a value.

    ``log_dict`` takes a good part of a millisecond a name and batch, most of it to find out what it knows from the batch before; a
    rubric of 64 criteria has six hundred names. Lightning's own callbacks for learning rates and devices hand their values to
    callbacks and loggers directly instead; so does this. What others log with ``log`` reaches the loggers in a call of its own with
    the same step: ``metrics.csv`` has both in one row.
    """

    def __init__(self) -> None:
        self._row: tuple[int, dict[str, float]] | None = None

    def show(self, module: LightningModule, values: Mapping[str, float]) -> None:
        """Hand the values of a batch to callbacks; they stay until the next batch has others."""
        wide = torch.get_default_dtype() == torch.float64
        row = torch.tensor(list(values.values()), dtype=torch.float64 if wide else torch.float32)
        self._row = batches_done(module.trainer), dict(zip(values, row.tolist(), strict=True))
        shown = dict(zip(values, row.to(module.device).unbind(), strict=True))
        module.trainer.callback_metrics.update(shown)
        module.trainer.logged_metrics.update(shown)

    def write(self, trainer: Trainer) -> None:
        """Hand them to the loggers, once, in every ``log_every_n_steps``-th batch and the last of a run that was stopped."""
        known: Any = trainer
        step, every = batches_done(trainer) - 1, known.log_every_n_steps
        due = every > 0 and ((step + 1) % every == 0 or trainer.should_stop)
        if self._row is None or self._row[0] != step or not (due or known.fast_dev_run):
            return
        row, self._row = {**self._row[1], "epoch": trainer.current_epoch}, None
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)
            logger.save()
