"""The report at the end of a run, and its pictures in TensorBoard on the way."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_focal.callbacks.observer import batches_done
from lightning_focal.report.contents import all_figures
from lightning_focal.report.figures import matplotlib_figure
from lightning_focal.report.levels import run_levels
from lightning_focal.report.methods import group_runs
from lightning_focal.report.page import ROLLOUTS, write_report
from lightning_focal.report.run import read_run

__all__ = ["LiveFigures", "WriteReport", "log_figures"]

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

    Read back from the run folder, so they are the report's own. Levels and shares of the weight are drawn by criterion, and by each
    kind of tag (``level:hard``) as ``report/levels/tag level``, as far as rollouts are recorded.

    Args:
        every_n_batches: how often; each time takes a second or two.
        rollouts: recorded rollouts to read for tags at most, evenly spread over the run; 0 = no tags.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(self, every_n_batches: int = 50, rollouts: int = 1600) -> None:
        if every_n_batches < 1:
            raise ValueError(f"`every_n_batches` must be >= 1, got {every_n_batches}")
        if rollouts < 0:
            raise ValueError(f"`rollouts` must be >= 0, got {rollouts}")
        self.every_n_batches, self.rollouts = every_n_batches, rollouts

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw what the batches before this one have logged."""
        if trainer.global_step and batches_done(trainer) % self.every_n_batches == 0:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw everything that is logged."""
        folder = trainer.log_dir  # a collective: asked for on every process
        if not trainer.is_global_zero or folder is None or not (Path(folder) / "metrics.csv").exists():
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                log_figures(logger, folder, batches_done(trainer), self.rollouts)


def log_figures(board: TensorBoardLogger, folder: str | Path, batch: int, rollouts: int = 0) -> list[str]:
    """Draw the figures of a run folder into TensorBoard; returns the tags they have there.

    The first view of each is called after the figure, the others after what their criteria are grouped by, too. At most so many
    recorded rollouts are read.
    """
    run = read_run(folder)
    recorded = run_levels(read_run(folder, rollouts)) if rollouts else {}
    levels = recorded | run_levels(run)  # by criterion those logged in every batch, by tag those of the rollouts that were read
    tags = []
    for views in all_figures(group_runs([run]), {run.folder: levels}):
        for at, (choice, figure) in enumerate(views.views.items()):
            plain = re.sub(r"[^\w.\- ]", "", choice[-1]) if at else ""  # a tag of TensorBoard holds nothing else
            tags.append("/".join(["report", views.name, *([" ".join(plain.split())] if at else [])]))
            board.experiment.add_figure(tags[-1], matplotlib_figure(figure), global_step=batch)
    return tags
