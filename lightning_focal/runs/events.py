"""TensorBoard events, straight into the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        self._row: tuple[int | None, set[str]] = (None, set())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write values, each once a step."""
        if step is None or step != self._row[0]:
            self._row = (step, set())
        new = {name: value for name, value in metrics.items() if name not in self._row[1]}
        self._row[1].update(new)
        if new:
            super().log_metrics(new, step)

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Have readers drop what was written behind ``step``: a run resumed from an older checkpoint writes it again."""
        if len(list(Path(self.log_dir).glob("events.out.tfevents.*"))) < 2:  # the one that is open
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        writer: Any = self.experiment
        writer.file_writer.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    @rank_zero_only
    def save(self) -> None:
        """Flush the events."""
        self.experiment.flush()
