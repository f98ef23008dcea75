"""A run folder, read back: whatever is there of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_focal.report.metrics import Series, read_metrics

__all__ = ["RecordedRollouts", "Run", "evenly", "read_recorded", "read_run", "with_ranks"]

_PARTS = ("metrics.csv", "held_out.json", "rollouts", "config.yaml")
_NEEDED = {"batch", "prompt_id", "rollout", "messages", "response", "reward", "static_reward", "criteria"}


@dataclass
class RecordedRollouts:
    """Rollouts of one stage.

    Rows are as :func:`~lightning_focal.callbacks.rollout_table.rollout_rows` makes them, and hold ``rank_change``: by how many places
    the reward in force lifts a rollout in its group, against static weights; None where it was not judged.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0  # on the disk
    problems: list[str] = field(default_factory=list)  # files that could not be read, in words

    @property
    def batches(self) -> list[int]:
        """Numbers of the batches that were read, ascending."""
        return sorted({row["batch"] for row in self.rows})


def read_recorded(folder: Path, stage: str, limit: int, ends_only: bool = False) -> RecordedRollouts:
    """Read rollouts of a stage, whole batches evenly spread over the run, the first and the last among them.

    At most ``limit`` rollouts are read, but for the first and the last batch; with ``ends_only`` those two alone.
    """
    import pyarrow.parquet as pq

    found = RecordedRollouts()
    files: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob(f"{stage}-*.parquet")):
        try:
            batch, count = int(path.name.split("-")[1]), pq.ParquetFile(path).metadata.num_rows
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            found.problems.append(_unreadable(path, error))
            continue
        files[batch].append(path)
        found.total += count
    fitting = len(files) if found.total <= limit else int(limit * len(files) / found.total)
    for batch in evenly(sorted(files), 2 if ends_only else fitting):
        for path in files[batch]:
            try:
                table = pq.ParquetFile(path).read()
                if missing := sorted(_NEEDED - set(table.column_names)):
                    raise ValueError(f"no column {missing[0]!r}")
                found.rows += table.to_pylist()
            except (OSError, ValueError) as error:
                found.problems.append(_unreadable(path, error))
    with_ranks(found.rows)
    return found


def _unreadable(path: Path, error: Exception) -> str:
    return f"rollouts/{path.name} cannot be read: {str(error).splitlines()[0][:200]}"


def evenly(items: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the items, at least two, evenly spread, the first and the last among them.

    >>> evenly([0, 1, 2, 3, 4], 3), evenly([7], 3), evenly([], 3)
    ([0, 2, 4], [7], [])
    """
    count = max(2, count)
    if count >= len(items):
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def with_ranks(rows: list[dict[str, Any]]) -> None:
    """Put ``rank_change`` into every row: static rank minus rank in force within the group, 0 = best, ties share a rank.

    >>> rows = [{"batch": 0, "prompt_id": "p", "static_reward": s, "reward": r} for s, r in ((0.9, 0.5), (0.8, 0.6))]
    >>> with_ranks(rows); [row["rank_change"] for row in rows]
    [-1, 1]
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        row["rank_change"] = None
        rewards = (row["reward"], row["static_reward"])
        if row.get("valid", True) and all(value is not None and value - value == 0 for value in rewards):
            groups[row["batch"], row["prompt_id"]].append(row)
    for group in groups.values():
        for row in group:
            static, ours = (sum(other[of] > row[of] + 1e-9 for other in group) for of in ("static_reward", "reward"))
            row["rank_change"] = static - ours


@dataclass(frozen=True)
class Run:
    """What is known of a run; what is missing is empty."""

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""  # the same as it stands in the file
    record: Mapping[str, Any] = field(default_factory=dict)  # how it was started, see lightning_focal.runs.record
    metrics: Mapping[str, Series] = field(default_factory=dict)  # by column of metrics.csv
    evaluations: tuple[Mapping[str, Any], ...] = ()  # of held-out prompts, in order: batch, scores by prompt id, measures
    level: float = 0.95  # coverage of its intervals
    train: RecordedRollouts = field(default_factory=RecordedRollouts)
    held_out: RecordedRollouts = field(default_factory=RecordedRollouts)  # of the first and of the last evaluation
    notes: tuple[str, ...] = ()  # what could not be read, in words

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
        return bool(self.record["starts"][-1].get("ended")) if self.record else None

    def held_out_series(self, name: str) -> Series:
        """A measure of the held-out prompts, evaluation by evaluation."""
        series = Series()
        for entry in self.evaluations:
            value = entry.get("measures", {}).get(name)
            if value is not None and (not series.batches or entry["batch"] > series.batches[-1]):
                series.add(int(entry["batch"]), float(value))
        return series


def read_run(folder: str | Path, rollouts: int = 0) -> Run:
    """Read a run folder, and at most so many training rollouts (0: no held-out ones either); ValueError where nothing was trained."""
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
    config_text, config = _mapping(folder / "config.yaml", yaml.safe_load, notes)
    _, record = _mapping(folder / "run.json", json.loads, notes)
    _, held_out = _mapping(folder / "held_out.json", json.loads, notes)
    metrics = read_metrics(folder / "metrics.csv") if "metrics.csv" in there else {}
    evaluations = tuple(entry for entry in held_out.get("evaluations", []) if entry.get("scores") is not None)
    train, val = RecordedRollouts(), RecordedRollouts()
    if rollouts:
        train = read_recorded(folder / "rollouts", "train", rollouts)
        val = read_recorded(folder / "rollouts", "val", rollouts, ends_only=True)
    if not any(name.startswith("train/") for name in metrics) and not evaluations and not train.rows:
        raise ValueError(f"`runs`: {folder} must be the folder of a run that trained, got one without a training batch in it")
    return Run(
        folder,
        config,
        config_text,
        record if record.get("starts") else {},
        metrics,
        evaluations,
        float(held_out.get("level", 0.95)),
        train,
        val,
        (*notes, *train.problems, *val.problems),
    )


def _mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> tuple[str, dict[str, Any]]:
    """Text of a file and what it holds; nothing where it is missing, and a note where it is broken."""
    if not path.exists():
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = parse(text)
    except (ValueError, yaml.YAMLError) as error:
        notes.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}")
        return text, {}
    return text, content if isinstance(content, dict) else {}
