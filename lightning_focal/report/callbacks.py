"""The report at the end of a run, and its pictures in TensorBoard on the way."""

from __future__ import annotations

import logging
import re
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
            log_figures(board, folder, batch, self.rollouts)


def log_figures(board: TensorBoardLogger, folder: str | Path, batch: int, rollouts: int = 0) -> Sequence[str]:
    """Draw the figures of a run folder into TensorBoard; returns the tags they have there.

    The first view of each is called after the figure, the others after what their criteria are grouped by, too.
    """
    run = read_run(folder)
    recorded = run_levels(read_run(folder, rollouts)) if rollouts else {}
    levels = recorded | run_levels(run)  # by criterion those logged in every batch, by tag those of the rollouts that were read
    tags = []
    for views in all_figures(group_runs([run]), {run.folder: levels}):
        for at, (choice, figure) in enumerate(views.views.items()):
            tag = f"report/{views.name}" + (f"/{_plain(choice[-1])}" if at else "")
            board.experiment.add_figure(tag, matplotlib_figure(figure), global_step=batch)
            tags.append(tag)
    return tags


def _plain(choice: str) -> str:
    """A choice of the report without what TensorBoard's tags do not hold.

    >>> _plain("tag “level”")
    'tag level'
    """
    return " ".join(re.sub(r"[^\w.\- ]", "", choice).split())
