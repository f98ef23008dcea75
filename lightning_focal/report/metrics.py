"""What metrics.csv holds, as series over rollout batches."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Series", "keys", "read_metrics"]


@dataclass
class Series:
    """A measured quantity over rollout batches, as sums and counts, so that means over several batches are exact.

    Args:
        batches: numbers of batches, ascending.
        sums: sum of the quantity in each.
        counts: what the sum is divided by, > 0.

    >>> series = Series()
    >>> series.add(0, 3.0, 2), series.add(0, 1.0, 2), series.add(2, 5.0)
    (None, None, None)
    >>> series.batches, series.values, series.trailing(3)
    ([0, 2], [1.0, 5.0], [1.0, 1.8])
    """

    batches: list[int] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)

    def add(self, batch: int, value: float, count: float = 1.0) -> None:
        """Add a sum over ``count`` items to the last batch or a later one; what is not finite is left out."""
        if not math.isfinite(value) or count <= 0:
            return
        if not self.batches or self.batches[-1] != batch:
            self.batches.append(batch)
            self.sums.append(0.0)
            self.counts.append(0.0)
        self.sums[-1] += value
        self.counts[-1] += count

    @property
    def values(self) -> list[float]:
        """Mean in each batch."""
        return [total / count for total, count in zip(self.sums, self.counts, strict=True)]

    def trailing(self, window: int) -> list[float]:
        """Mean over the latest ``window`` batches, at each batch; batches without a value are passed over."""
        means, first, total, count = [], 0, 0.0, 0.0
        for last, batch in enumerate(self.batches):
            total, count = total + self.sums[last], count + self.counts[last]
            while self.batches[first] <= batch - window:
                total, count, first = total - self.sums[first], count - self.counts[first], first + 1
            means.append(total / count)
        return means

    def minus(self, other: Series) -> Series:
        """Difference of the means, at the batches that both have."""
        theirs, found = dict(zip(other.batches, other.values, strict=True)), Series()
        for batch, value in zip(self.batches, self.values, strict=True):
            if batch in theirs:
                found.add(batch, value - theirs[batch])
        return found

    def mean(self, first: int, last: int) -> float:
        """Mean over the batches ``first`` to ``last``, both included; NaN where none has a value."""
        kept = [i for i, batch in enumerate(self.batches) if first <= batch <= last]
        count = sum(self.counts[i] for i in kept)
        return sum(self.sums[i] for i in kept) / count if count else math.nan

    def ends(self, batches: int) -> tuple[float, float]:
        """Mean over the first and over the last tenth of a run of so many batches."""
        tenth = max(1, batches // 10)
        return self.mean(0, tenth - 1), self.mean(batches - tenth, batches)


def read_metrics(path: Path) -> dict[str, Series]:
    """Read a ``metrics.csv``; a last row that was cut off in the middle, and cells that are no number, are left out.

    Returns:
        Column -> series; columns without any value are missing.
    """
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        lines = list(file)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    found: dict[str, Series] = {}
    for row in csv.DictReader(lines):
        step = _number(row.get("step"))
        if not math.isfinite(step) or None in row:
            continue
        for name, cell in row.items():
            value = _number(cell)
            if name not in ("step", "epoch") and math.isfinite(value):
                found.setdefault(name, Series()).add(int(step), value)
    return found


def _number(cell: str | None) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.nan


def keys(columns: Mapping[str, object], before: str, after: str = "") -> list[str]:
    """Return what stands between ``before`` and ``after`` in the names of the columns that have both, sorted."""
    long = len(before) + len(after)
    return sorted(
        name[len(before) : len(name) - len(after)]
        for name in columns
        if name.startswith(before) and name.endswith(after) and len(name) > long
    )
