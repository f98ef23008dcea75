"""The report at the end of a run, and its pictures in TensorBoard on the way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_focal.report.contents import all_figures
from lightning_focal.report.levels import run_levels
from lightning_focal.report.matplotlib_draw import matplotlib_figure
from lightning_focal.report.methods import group_runs
from lightning_focal.report.page import ROLLOUTS, write_report
from lightning_focal.report.run import read_run

__all__ = ["LiveFigures", "WriteReport"]

_log = logging.getLogger(__name__)


class WriteReport(Callback):
    """Writes ``report.html`` into the run folder at the end of `fit`.

    A report that cannot be written is logged as an error; the run, which is over by then, does not fail.

    Args:
        rollouts: training rollouts to show at most.

    Raises:
        ValueError: for a negative number.
    """

    def __init__(self, rollouts: int = ROLLOUTS) -> None:
        if rollouts < 0:
            raise ValueError(f"`rollouts` must be >= 0, got {rollouts}")
        self.rollouts = rollouts

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        folder = trainer.log_dir  # a collective: asked for on every process
        if not trainer.is_global_zero or folder is None:
            return
        try:
            written = write_report([folder], rollouts=self.rollouts)
        except Exception:
            _log.exception("the report on %s could not be written; `lightning_focal report %s` tries again", folder, folder)
            return
        _log.info("report: %s, %.1f MB", written.path, written.size / 1e6)


class LiveFigures(Callback):
    """Draws the report's figures into TensorBoard every few batches, and once at the end.

    Read back from the run folder, so they are the report's own; levels by criterion, without tags.

    Args:
        every_n_batches: how often; each time takes about a second.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(self, every_n_batches: int = 50) -> None:
        if every_n_batches < 1:
            raise ValueError(f"`every_n_batches` must be >= 1, got {every_n_batches}")
        self.every_n_batches = every_n_batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw what the batches before this one have logged."""
        done = trainer.global_step and int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]
        if done and done % self.every_n_batches == 0:
            self._draw(trainer, done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw once more."""
        self._draw(trainer, int(trainer.fit_loop.epoch_loop.batch_progress.total.processed))  # type: ignore[attr-defined]

    def _draw(self, trainer: Trainer, batch: int) -> None:
        folder = trainer.log_dir  # a collective: asked for on every process
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not trainer.is_global_zero or not boards or folder is None or not (Path(folder) / "metrics.csv").exists():
            return
        for board in boards:
            log_figures(board, folder, batch)


def log_figures(board: TensorBoardLogger, folder: str | Path, batch: int) -> Sequence[str]:
    """Draw the figures of a run folder, in their first view each, into TensorBoard; returns the tags they have there."""
    tags = []
    run = read_run(folder)
    for views in all_figures(group_runs([run]), {run.folder: run_levels(run)}):
        figure = next(iter(views.views.values()))
        board.experiment.add_figure(f"report/{views.name}", matplotlib_figure(figure), global_step=batch)
        tags.append(f"report/{views.name}")
    return tags
