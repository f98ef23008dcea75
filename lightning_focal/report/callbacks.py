"""The report at the end of a run."""

from __future__ import annotations

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_focal.report.page import ROLLOUTS, write_report

__all__ = ["WriteReport"]

_log = logging.getLogger(__name__)


class WriteReport(Callback):
    """Writes ``report.html`` into the run folder at the end of `fit`.

    A report that cannot be written is logged as an error; the run, which is over by then, does not fail.

    Args:
        rollouts: training rollouts to show at most, >= 0.
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
