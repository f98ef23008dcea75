"""Tables in Markdown, and intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_focal.functional import bootstrap_interval

__all__ = ["markdown_table", "over_seeds"]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    <BLANKLINE>
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row must have {len(head)} cells as the head has, got {len(row)}: {list(row)}")
    lines = [list(head), ["---"] * len(head), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over seeds; with fewer than three seeds the interval is their range."""
    if len(values) < 3:
        return sum(values) / len(values), min(values), max(values)
    return bootstrap_interval(torch.tensor(values, dtype=torch.float64))
