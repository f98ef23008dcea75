"""A run folder, read back: whatever is there of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_focal.report.metrics import Series, read_metrics
from lightning_focal.report.rollouts import RecordedRollouts, read_recorded

__all__ = ["Run", "read_run"]

_PARTS = ("metrics.csv", "held_out.json", "rollouts", "config.yaml")


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Args:
        folder: the run folder.
        config: the configuration, empty where it is missing.
        config_text: the same as it stands in the file.
        record: how it was started, see :mod:`lightning_focal.runs.record`; empty where that is not known.
        metrics: column of metrics.csv -> series.
        evaluations: of the held-out prompts, first to last: ``batch``, ``scores`` by prompt id, ``measures``.
        level: coverage of its intervals.
        train: training rollouts.
        held_out: rollouts of the first and of the last evaluation.
        notes: what could not be read, in words.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Series] = field(default_factory=dict)
    evaluations: tuple[Mapping[str, Any], ...] = ()
    level: float = 0.95
    train: RecordedRollouts = field(default_factory=RecordedRollouts)
    held_out: RecordedRollouts = field(default_factory=RecordedRollouts)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def batches(self) -> int:
        """Number of rollout batches trained on."""
        logged = [series.batches[-1] + 1 for name, series in self.metrics.items() if name.startswith("train/")]
        read = [batch + 1 for batch in self.train.batches[-1:]]
        return max([*logged, *read, *(int(entry["batch"]) for entry in self.evaluations[-1:])], default=0)

    @property
    def finished(self) -> bool | None:
        """Whether it came to its end; None where that is not recorded."""
        return None if not self.record else bool(self.record["starts"][-1].get("ended"))


def read_run(folder: str | Path, rollouts: int = 0) -> Run:
    """Read a run folder.

    Args:
        folder: of ``lightning_focal fit``.
        rollouts: training rollouts to read at most; 0 = none, and no held-out ones.

    Raises:
        ValueError: when the folder is no run folder, or none of a run that trained.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"`runs`: {str(folder)!r} must be a run folder such as runs/focal, got no folder (looked in {Path.cwd()})"
        )
    there = [part for part in _PARTS if (folder / part).exists()]
    if not set(there) - {"config.yaml"}:
        holds = ", ".join(there) or "none of them"
        raise ValueError(f"`runs`: {folder} must be a run folder with metrics.csv, held_out.json or rollouts/, got {holds}")
    notes: list[str] = []
    text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace") if "config.yaml" in there else ""
    metrics = read_metrics(folder / "metrics.csv") if "metrics.csv" in there else {}
    held_out = _json(folder / "held_out.json", notes)
    evaluations = tuple(e for e in held_out.get("evaluations", []) if e.get("scores") is not None)
    parts = folder / "rollouts"
    train = read_recorded(parts, "train", rollouts) if rollouts else RecordedRollouts()
    val = read_recorded(parts, "val", rollouts, ends_only=True) if rollouts else RecordedRollouts()
    if not any(name.startswith("train/") for name in metrics) and not evaluations and not train.rows:
        raise ValueError(f"`runs`: {folder} must be the folder of a run that trained, got one without a training batch in it")
    record = _json(folder / "run.json", notes)
    return Run(
        folder=folder,
        config=_config(text, notes),
        config_text=text,
        record=record if record.get("starts") else {},
        metrics=metrics,
        evaluations=evaluations,
        level=float(held_out.get("level", 0.95)),
        train=train,
        held_out=val,
        notes=(*notes, *train.problems, *val.problems),
    )


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def _config(text: str, notes: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        notes.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
        return {}
    return content if isinstance(content, dict) else {}
