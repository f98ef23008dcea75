"""Loggers as a person brings them, for tests."""

import json
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger


class Notes(Logger):
    """Writes what it is handed; like Weights & Biases into the current folder, where it is told nothing."""

    name, version = "notes", 0

    def __init__(self, save_dir: str = ".", file: str = "notes.json") -> None:
        super().__init__()
        self.path, self.held = Path(save_dir) / "notes" / file, {"params": None, "steps": []}

    @property
    def save_dir(self):
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params, *args, **kwargs):
        self.held["params"] = params

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.held["steps"].append([step, {name: float(value) for name, value in metrics.items()}])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.held), encoding="utf-8")
