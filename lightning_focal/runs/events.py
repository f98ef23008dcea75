"""TensorBoard events, straight into the run folder."""

from __future__ import annotations

from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger

__all__ = ["EventLog"]


class EventLog(TensorBoardLogger):
    """Lightning's TensorBoardLogger without folders of its own and without ``hparams.yaml``: config.yaml says more.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(str(folder), name="", version="", default_hp_metric=False)

    @rank_zero_only
    def save(self) -> None:
        """Flush the events."""
        self.experiment.flush()
