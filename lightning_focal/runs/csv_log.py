"""metrics.csv: one row a step, without gaps or doubles over resumed runs."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

__all__ = ["CSVLog"]


class CSVLog(Logger):
    """Writes ``metrics.csv`` into a folder, a row a step, columns sorted after ``step``.

    Lightning's CSVLogger deletes what it finds; this one goes on behind it. Values logged for one step share a row. The file is
    always whole: it is written beside and renamed when a column or an old row changes, and appended to otherwise.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, str]] = {}
        self._columns: list[str] = []
        self._read = False

    @property
    def name(self) -> str:
        """Empty: the folder is the run."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the folder is the run."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step`` (the next one where None)."""
        self._load()
        step = max(self._rows, default=-1) + 1 if step is None else int(step)
        values = {name: repr(float(value)) for name, value in metrics.items()}
        new_row = step not in self._rows
        if not new_row and values.items() <= self._rows[step].items():
            return
        self._rows.setdefault(step, {}).update(values)
        new_columns = not set(values) <= set(self._columns)
        self._columns = sorted({*self._columns, *values})
        if new_row and not new_columns and self.path.exists() and step == max(self._rows):
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                self._writer(file).writerow({"step": step, **self._rows[step]})
        else:
            self._write()

    @rank_zero_only
    def flush(self) -> None:
        """Bring what was written to the disk: before the checkpoint that a run resumes behind it from."""
        if self.path.exists():
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Drop rows behind ``step``: a run resumed from an older checkpoint writes them again."""
        self._load()
        if any(row > step for row in self._rows):
            self._rows = {row: values for row, values in self._rows.items() if row <= step}
            self._write()

    def _load(self) -> None:
        if self._read:
            return
        self._read = True
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                whole = [line for line in file if line.endswith("\n")]  # a kill may have cut the last row short
            for row in csv.DictReader(whole):
                if row.get("step") and None not in row.values():
                    step = int(row.pop("step"))
                    self._rows[step] = {name: value for name, value in row.items() if value != ""}
            self._columns = sorted({name for row in self._rows.values() for name in row})
            self._write()

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, fieldnames=["step", *self._columns], restval="")

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(beside, "w", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        os.replace(beside, self.path)
