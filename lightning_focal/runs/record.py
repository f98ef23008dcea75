"""``run.json``: how a run was started, each time it was."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

import lightning_focal
from lightning_focal.files import set_aside_of, write_json, write_text
from lightning_focal.runs.loggers import CSVLog, EventLog

__all__ = ["ConfigRecord", "RunRecord", "commit"]


_OF_A_START = ("ckpt_path", "run_dir")
"""Settings that say where a run is found and goes on: they differ from start to start."""


class ConfigRecord(Callback):
    """Writes config.yaml, into the folder of a run that is resumed only once its checkpoint has been accepted.

    Loggers beside those of the run folder are handed the settings as hyper-parameters when training starts.

    Args:
        text: returns what config.yaml says.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self.text = text

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it for a new run."""
        path = self._path(trainer)  # a collective: asked for on every process
        if path is not None and not (stage == "fit" and path.exists()):
            write_text(path, self.text())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it for one that goes on; what other settings were before is set aside."""
        path = self._path(trainer)
        if path is None:
            return
        text, before = self.text(), path.read_text(encoding="utf-8") if path.is_file() else None
        write_text(path, text)
        settings = _settings(text)
        if before is not None and _settings(before) != settings:
            batch: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
            write_text(set_aside_of(trainer, path.parent, batch).place_for(path), before)
        for logger in trainer.loggers:
            if not isinstance(logger, (CSVLog, EventLog)):
                logger.log_hyperparams(settings)

    @staticmethod
    def _path(trainer: Trainer) -> Path | None:
        folder = trainer.log_dir
        writes = trainer.is_global_zero and folder is not None and not getattr(trainer, "fast_dev_run", False)
        return Path(folder) / "config.yaml" if writes and folder is not None else None


def _settings(text: str) -> Any:
    settings = yaml.safe_load(text)
    return {key: value for key, value in settings.items() if key not in _OF_A_START} if isinstance(settings, dict) else settings


class RunRecord(Callback):
    """Keeps ``run.json``: command, versions, commit and device of every start, and whether the run came to its end.

    A start drops those at or behind its batch, which a run that begins anew would repeat; the file as it was is set aside.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a start."""
        folder = trainer.log_dir  # a collective: asked for on every process
        if not trainer.is_global_zero or folder is None:
            return
        batch: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        root, program = trainer.strategy.root_device, Path(sys.argv[0]).name
        device = torch.cuda.get_device_name(root) if root.type == "cuda" else f"{root.type}, {torch.get_num_threads()} threads"
        script = ["python", sys.argv[0]] if program.endswith(".py") else [program]
        words = ["python", "-m", "lightning_focal"] if program == "__main__.py" else script
        entry = {
            "command": shlex.join([*words, *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "batch": batch,
            "from": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "ended": False,
            "version": lightning_focal.__version__,
            "commit": commit(),
            "device": device if trainer.world_size == 1 else f"{trainer.world_size} x {device}",
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "lightning", "transformers")},
        }
        earlier = [start for start in _starts(folder) if start.get("batch", 0) < batch]
        path = Path(folder) / "run.json"
        set_aside_of(trainer, folder, batch).keep_longer(path, "starts", len(earlier))
        write_json(path, {"starts": [*earlier, entry]})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end."""
        folder = trainer.log_dir
        starts = _starts(folder) if trainer.is_global_zero and folder is not None else []
        if folder is not None and starts:
            starts[-1]["ended"] = True
            write_json(Path(folder) / "run.json", {"starts": starts})


def _starts(folder: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no record, or a broken one: a new one begins


def commit() -> str | None:
    """Return the commit of the package's checkout, ``+changes`` behind it where files differ; None outside a checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(lightning_focal.__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, env=environment).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):
            return None  # in somebody else's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
