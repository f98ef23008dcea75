"""Tables of the evidence, from the cells that are complete: each method's best setting against the strongest static weights.

python benchmarks/evidence/tables.py --cells benchmarks/results/evidence --out benchmarks/results/evidence.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from methods import STATIC
from problems import PROBLEMS

from lightning_focal.functional import student_interval

Finals = dict[int, Mapping[str, Any]]
"""Last evaluation by seed."""


def finals(rows: list[dict[str, Any]], role: str, by: str) -> dict[str, Finals]:
    """Last evaluations of a role's runs, by method or by setting."""
    found: dict[str, Finals] = {}
    for row in rows:
        if row["role"] == role and row["batch"] == row["steps"]:
            found.setdefault(row[by], {})[row["seed"]] = row
    return found


def mean(of: Finals, measure: str) -> float:
    return sum(row[measure] for row in of.values()) / len(of)


def difference(one: Finals, other: Finals, measure: str) -> tuple[float, float, float]:
    """Paired difference over the seeds that both have: mean and 95 % t-interval."""
    pairs = [one[seed][measure] - other[seed][measure] for seed in sorted(one.keys() & other.keys())]
    return student_interval(torch.tensor(pairs, dtype=torch.float64))


def cell_table(rows: list[dict[str, Any]]) -> tuple[list[str], dict[str, tuple[bool, bool, bool]]]:
    """Lines of a cell's table; and of each method whether its score is higher, for certain, and its worst criterion higher."""
    tests = finals(rows, "test", "method")
    best = max((name for name in STATIC if name in tests), key=lambda name: mean(tests[name], "score"))
    lines = [
        "| method | setting | score | worst | bottom quartile | every criterion | score minus the strongest static | worst minus it |"
    ]
    lines.append("|" + " --- |" * 8)
    won = {}
    for method, of in tests.items():
        (score, low, high), (worst, *ends) = (difference(of, tests[best], name) for name in ("score", "worst"))
        won[method] = (score > 0, low > 0, worst > 0)
        shown = [f"{mean(of, name):.3f}" for name in ("score", "worst", "bottom_quartile", "strict_completion")]
        apart = "strongest static" if method == best else f"{score:+.3f} [{low:+.3f}, {high:+.3f}]"
        under = "" if method == best else f"{worst:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        lines.append(f"| {method} | {next(iter(of.values()))['setting']} | {' | '.join(shown)} | {apart} | {under} |")
    for setting, of in finals(rows, "ablation", "setting").items():
        lines.append(f"| ablation | {setting} | {mean(of, 'score'):.3f} | {mean(of, 'worst'):.3f} | | | | |")
    return lines, won


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/results/evidence"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence.md"))
    given = parser.parse_args()
    lines, wins = [], dict[str, list[tuple[bool, bool, bool]]]()
    cells = sorted(given.cells.glob("*.parquet"))
    for path in cells:
        scale, problem = path.stem.rsplit("-", 1)
        table, won = cell_table(pq.read_table(path).to_pylist())
        lines += [f"## {problem}, {scale}", "", PROBLEMS[problem].says.capitalize() + ".", "", *table, ""]
        for method, of in won.items():
            wins.setdefault(method, []).append(of)
    head = [f"# {len(cells)} cells", "", "| method | cells | score higher | for certain | worst higher |", "|" + " --- |" * 5]
    head += [
        f"| {m} | {len(of)} | {' | '.join(str(sum(column)) for column in zip(*of, strict=True))} |" for m, of in wins.items()
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join([*head, "", *lines]), encoding="utf-8")


if __name__ == "__main__":
    main()
