"""Recorded rollouts, read back with their ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["RecordedRollouts", "evenly", "read_recorded", "with_ranks"]

_NEEDED = {"batch", "prompt_id", "rollout", "messages", "response", "reward", "static_reward", "criteria"}


@dataclass
class RecordedRollouts:
    """Rollouts of one stage.

    Args:
        rows: as :func:`~lightning_focal.callbacks.rollout_table.rollout_rows` makes them, and ``rank_change``: by how many places
            the reward in force lifts a rollout in its group, against static weights; None where it was not judged.
        total: number of rollouts on the disk.
        problems: files that could not be read, in words.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def batches(self) -> list[int]:
        """Numbers of the batches that were read, ascending."""
        return sorted({row["batch"] for row in self.rows})


def read_recorded(folder: Path, stage: str, limit: int, ends_only: bool = False) -> RecordedRollouts:
    """Read rollouts of a stage, whole batches evenly spread over the run, the first and the last among them.

    Args:
        folder: ``<run folder>/rollouts``; nothing is found where it is missing.
        stage: ``train`` or ``val``.
        limit: number of rollouts to read at most; first and last batch are read whatever their size.
        ends_only: read the first and the last batch alone.
    """
    import pyarrow.parquet as pq

    found = RecordedRollouts()
    files: dict[int, list[tuple[Path, int]]] = defaultdict(list)
    for path in sorted(folder.glob(f"{stage}-*.parquet")):
        try:
            batch, rows = int(path.name.split("-")[1]), pq.ParquetFile(path).metadata.num_rows
        except (OSError, ValueError, IndexError) as error:  # pyarrow's own errors are ValueErrors
            found.problems.append(f"rollouts/{path.name} cannot be read: {str(error).splitlines()[0][:200]}")
            continue
        files[batch].append((path, rows))
        found.total += rows
    sizes = {batch: sum(rows for _, rows in parts) for batch, parts in sorted(files.items())}
    chosen = evenly(list(sizes), 2) if ends_only else evenly(list(sizes), _fitting(list(sizes.values()), limit))
    for batch in chosen:
        for path, _ in files[batch]:
            try:
                table = pq.read_table(path)
                missing = sorted(_NEEDED - set(table.column_names))
                if missing:
                    raise ValueError(f"no column {missing[0]!r}")
                found.rows += table.to_pylist()
            except (OSError, ValueError) as error:
                found.problems.append(f"rollouts/{path.name} cannot be read: {str(error).splitlines()[0][:200]}")
    with_ranks(found.rows)
    return found


def evenly(items: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the items, evenly spread, the first and the last among them.

    >>> evenly([0, 1, 2, 3, 4], 3), evenly([7], 3), evenly([], 3)
    ([0, 2, 4], [7], [])
    """
    if count >= len(items):
        return list(items)
    count = max(2, count)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _fitting(sizes: list[int], limit: int) -> int:
    """Number of batches whose rollouts stay within ``limit``."""
    return len(sizes) if sum(sizes) <= limit else int(limit / (sum(sizes) / len(sizes)))


def with_ranks(rows: list[dict[str, Any]]) -> None:
    """Put ``rank_change`` into every row: static rank minus rank in force within the group, 0 = best, ties share a rank.

    >>> rows = [{"batch": 0, "prompt_id": "p", "static_reward": s, "reward": r} for s, r in ((0.9, 0.5), (0.8, 0.6))]
    >>> with_ranks(rows); [row["rank_change"] for row in rows]
    [-1, 1]
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["batch"], row["prompt_id"]].append(row)
    for group in groups.values():
        valid = [row for row in group if _judged(row)]
        for row in group:
            row["rank_change"] = _rank(row, valid, "static_reward") - _rank(row, valid, "reward") if _judged(row) else None


def _judged(row: dict[str, Any]) -> bool:
    return bool(row.get("valid", True)) and all(_finite(row[name]) for name in ("reward", "static_reward"))


def _finite(value: Any) -> bool:
    return value is not None and value - value == 0


def _rank(row: dict[str, Any], others: list[dict[str, Any]], name: str) -> int:
    return sum(other[name] > row[name] + 1e-9 for other in others)
