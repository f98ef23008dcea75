"""What a run logs: ``metrics.csv`` and TensorBoard events, without gaps or doubles over resumed runs."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lightning_focal.files import SetAside, write_whole

__all__ = ["CSVLog", "EventLog"]


class CSVLog(Logger):
    """Writes ``metrics.csv`` into a folder, one row a step, columns sorted after ``step``.

    Lightning's CSVLogger deletes what it finds; this one goes on behind it. Values logged for one step share a row. The last row is
    written at the end of the file; when a column is new or an older row changes, the whole file is replaced.
    """

    name = version = log_dir = save_dir = ""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.log_dir = self.save_dir = str(folder)
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, str]] | None = None  # read from the file at first use
        self._columns: list[str] = []
        self._last = 0  # bytes in front of the last row

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step`` (the next one where None)."""
        rows = self._read()
        last = max(rows, default=-1)
        step = last + 1 if step is None else int(step)
        rows.setdefault(step, {}).update({name: repr(float(value)) for name, value in metrics.items()})
        columns = sorted({*self._columns, *metrics})
        if columns != self._columns or step < last or not self.path.exists():
            self._columns = columns
            self._write(rows)
            return
        if step > last:
            self._last = self.path.stat().st_size
        with open(self.path, "rb+") as file:
            file.seek(self._last)
            file.truncate()
            file.write(self._line(step, rows[step]))

    @rank_zero_only
    def flush(self) -> None:
        """Bring what was written to the disk: before the checkpoint that a run resumes behind it from."""
        if self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def forget_after(self, step: int, set_aside: SetAside) -> None:
        """Move rows behind ``step`` elsewhere: a run resumed from an older checkpoint writes them again."""
        rows = self._read()
        behind = {row: values for row, values in rows.items() if row > step}
        if behind:
            write_whole(set_aside.place_for(self.path), lambda beside: beside.write_bytes(b"".join(self._lines(behind))))
            self._rows = {row: values for row, values in rows.items() if row <= step}
            self._write(self._rows)

    def _read(self) -> dict[int, dict[str, str]]:
        if self._rows is None:
            self._rows = {}
            if self.path.exists():
                with open(self.path, newline="", encoding="utf-8") as file:
                    whole = [line for line in file if line.endswith("\n")]  # a kill may have cut the last row short
                for row in csv.DictReader(whole):
                    if row.get("step") and None not in row.values():
                        step = int(row.pop("step"))
                        self._rows[step] = {name: value for name, value in row.items() if value != ""}
                self._columns = sorted({name for values in self._rows.values() for name in values})
                self._write(self._rows)
        return self._rows

    def _line(self, first: Any, values: Mapping[str, str]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerow([first, *(values.get(name, "") for name in self._columns)])
        return text.getvalue().encode()

    def _lines(self, rows: dict[int, dict[str, str]]) -> list[bytes]:
        return [self._line("step", {name: name for name in self._columns}), *(self._line(k, rows[k]) for k in sorted(rows))]

    def _write(self, rows: dict[int, dict[str, str]]) -> None:
        lines = self._lines(rows)
        write_whole(self.path, lambda beside: beside.write_bytes(b"".join(lines)))
        self._last = sum(map(len, lines[:-1]))


class EventLog(TensorBoardLogger):
    """Lightning's TensorBoardLogger without folders of its own and without ``hparams.yaml``: config.yaml says more."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(str(folder), name="", version="", default_hp_metric=False)

    @rank_zero_only
    def forget_after(self, step: int, set_aside: SetAside | None = None) -> None:
        """Have readers pass over what was written behind ``step``, as a resumed run writes it again; it stays in its file."""
        writer: Any = self.experiment
        if len(list(Path(self.log_dir).glob("events.out.tfevents.*"))) > 1:  # others than the one just opened
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

            writer.file_writer.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    @rank_zero_only
    def save(self) -> None:
        """Flush the events."""
        self.experiment.flush()
