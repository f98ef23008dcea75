"""Tables and the picture of the evidence, from the cells that are stored: each method's best setting against the strongest static weights.

    python benchmarks/evidence/tables.py --cells benchmarks/results/evidence --out benchmarks/results/evidence.md \\
        --page docs/evidence.md --picture docs/_static/evidence.svg

``--out`` holds every method of every cell; the page what they come to, and the tables of ``label_free.py``. Differences are paired by test
seed, with 95 % t-intervals. A method is shown in a cell once it has run on all test seeds that the cell's static weights ran on; a cell
in which these are not complete is left out.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import label_free
import pyarrow.parquet as pq
from methods import STATIC, methods
from problems import PROBLEMS
from run import SCALES

from lightning_focal.functional import student_interval

RECIPE, PAPER = "standardised Focal", "Focal"
MEASURES = {
    "score": "score",
    "road": "score on the road",
    "worst": "worst criterion",
    "bottom_quartile": "bottom quartile",
    "strict_completion": "every criterion met",
}

Finals = dict[int, Mapping[str, Any]]
"""Last evaluation by seed."""
Interval = tuple[float, float, float]
"""Mean, and the ends of its 95 % interval."""


def finals(rows: list[dict[str, Any]], role: str, by: str) -> dict[str, Finals]:
    """Last evaluations of a role's finished runs, by method or by setting; ``road``: the mean score of all behind the first update."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["role"] == role and row["batch"]:
            runs.setdefault((row[by], row["seed"]), []).append(row)
    found: dict[str, Finals] = {}
    for (name, seed), run in runs.items():
        if run[-1]["batch"] == run[-1]["steps"]:
            found.setdefault(name, {})[seed] = run[-1] | {"road": sum(row["score"] for row in run) / len(run)}
    return found


def mean(of: Finals, measure: str) -> float:
    return sum(row[measure] for row in of.values()) / len(of)


def difference(one: Finals, other: Finals, measure: str) -> Interval:
    """Paired difference over the seeds of ``other``."""
    return student_interval([one[seed][measure] - other[seed][measure] for seed in sorted(other)])


def shown(interval: Interval) -> str:
    return ("{:+.3f}" if math.isnan(interval[1]) else "{:+.3f} [{:+.3f}, {:+.3f}]").format(*interval)  # one alone has no interval


def table(head: str, rows: Iterable[Iterable[Any]]) -> list[str]:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [f"| {head} |", "|" + " --- |" * (head.count("|") + 1), *lines, ""]


@dataclass(frozen=True)
class Cell:
    """A policy scale and a problem.

    Args:
        scale: of the policy.
        problem: name of the rubric.
        tests: last evaluations on test seeds, by method.
        ablations: the same of the recipe with one part changed, by what was changed.
    """

    scale: str
    problem: str
    tests: dict[str, Finals]
    ablations: dict[str, Finals]

    @classmethod
    def read(cls, path: Path) -> Cell | None:
        """Return what is complete of a stored cell; None before the static weights are."""
        rows = pq.read_table(path).to_pylist()
        tests, ablations = finals(rows, "test", "method"), finals(rows, "ablation", "setting")
        seeds = {row["seed"] for row in rows if row["role"] == "test"}
        if any(tests.get(name, {}).keys() != seeds for name in STATIC):
            return None
        whole = [{name: of for name, of in group.items() if of.keys() == seeds} for group in (tests, ablations)]
        return cls(*path.stem.rsplit("-", 1), *whole)

    @property
    def name(self) -> str:
        return f"{self.problem}, {self.scale}"

    @property
    def static(self) -> str:
        """The strongest static weights by the score on test seeds."""
        return max(STATIC, key=lambda name: mean(self.tests[name], "score"))

    @property
    def moved(self) -> list[str]:
        """Methods that are not static weights."""
        return [name for name in self.tests if name not in STATIC]

    def against_static(self, method: str, measure: str) -> Interval:
        return difference(self.tests[method], self.tests[self.static], measure)

    def lines(self) -> list[str]:
        """Every method of the cell."""
        rows = []
        for method, of in self.tests.items():
            levels = [f"{mean(of, name):.3f}" for name in MEASURES]
            apart = ["strongest static", ""] if method == self.static else []
            apart = apart or [shown(self.against_static(method, name)) for name in ("score", "worst")]
            rows.append([method, next(iter(of.values()))["setting"], *levels, *apart])
        head = " | ".join(["method", "setting", *MEASURES.values(), "score minus static", "worst minus static"])
        return [f"## {self.name}", "", PROBLEMS[self.problem].says.capitalize() + ".", "", *table(head, rows)]


def winners(cells: list[Cell]) -> list[str]:
    """In each cell the best method that moves weights."""
    rows = []
    for cell in cells:
        if not cell.moved:
            continue
        best = max(cell.moved, key=lambda name: mean(cell.tests[name], "score"))
        apart = [shown(cell.against_static(best, measure)) for measure in MEASURES]
        rows.append([cell.name, cell.static.removeprefix("static, "), best, *apart])
    return table(" | ".join(["cell", "strongest static", "best method", *MEASURES.values()]), rows)


def wins(cells: list[Cell]) -> list[str]:
    """How often each method is above and below the strongest static weights; in brackets, for certain."""
    rows = []
    for method in dict.fromkeys(name for cell in cells for name in cell.moved):
        of = [cell for cell in cells if method in cell.tests]
        counts = []
        for measure in ("score", "road", "worst"):
            tests = [
                (middle > 0, low > 0, middle < 0, high < 0)
                for middle, low, high in (c.against_static(method, measure) for c in of)
            ]
            above, certain, below, certainly_below = map(sum, zip(*tests, strict=True))
            counts += [f"{above} ({certain})", f"{below} ({certainly_below})"]
        rows.append([method, len(of), *counts])
    return table("method | cells | score above | below | on the road above | below | worst above | below", rows)


def side_by_side(cells: list[Cell]) -> list[str]:
    """The recipe and the paper's form against the strongest static weights."""
    rows = []
    for cell in cells:
        for method in (RECIPE, PAPER):
            if method in cell.tests:
                setting = next(iter(cell.tests[method].values()))["setting"]
                rows.append([cell.name, method, setting, *(shown(cell.against_static(method, name)) for name in MEASURES)])
    return table(" | ".join(["cell", "method", "setting", *MEASURES.values()]), rows)


def ablation(cells: list[Cell]) -> list[str]:
    """Each changed part against the recipe at the same setting: differences of all seeds, averaged within a cell, over cells."""
    rows = []
    of = [cell for cell in cells if "recipe" in cell.ablations]
    for part in dict.fromkeys(name for cell in of for name in cell.ablations if name != "recipe"):
        having = [cell for cell in of if part in cell.ablations]
        apart = [
            student_interval([difference(cell.ablations[part], cell.ablations["recipe"], measure)[0] for cell in having])
            for measure in MEASURES
        ]
        rows.append([part, len(having), *map(shown, apart)])
    return table(" | ".join(["the recipe, but", "cells", *MEASURES.values()]), rows)


def draw(cells: list[Cell], path: Path) -> None:
    """Score and worst criterion of the recipe and of the paper's form, minus the strongest static weights."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"], plt.rcParams["svg.fonttype"] = "evidence", "none"
    figure, axes = plt.subplots(1, 2, figsize=(8, 1 + 0.24 * len(cells)), sharey=True, layout="constrained")
    for axis, measure in zip(axes, ("score", "worst"), strict=True):
        axis.axvline(0, color="grey", linewidth=0.8)
        for method, colour, shift in ((RECIPE, "C0", -0.13), (PAPER, "C1", 0.13)):
            having = [(row, cell.against_static(method, measure)) for row, cell in enumerate(cells) if method in cell.tests]
            centres = [middle for _, (middle, _, _) in having]
            ends = [[middle - low for _, (middle, low, _) in having], [high - middle for _, (middle, _, high) in having]]
            places = [row + shift for row, _ in having]
            axis.errorbar(centres, places, xerr=ends, fmt="o", markersize=3, linewidth=1, color=colour, label=method)
        axis.set_xlabel(f"{MEASURES[measure]} minus the strongest static")
    axes[0].set_yticks(range(len(cells)), [cell.name for cell in cells])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def fill(page: Path, blocks: Mapping[str, list[str]]) -> None:
    """Put the lines of each block between its marks."""
    text = page.read_text(encoding="utf-8")
    for name, lines in blocks.items():
        block = "\n".join([f"<!-- table: {name} -->", *lines]).rstrip() + "\n<!-- end -->"
        text = re.sub(rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/results/evidence"))
    parser.add_argument("--label-free", type=Path, default=Path("benchmarks/results/label_free"), help="runs of label_free.py")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence.md"))
    parser.add_argument("--page", type=Path, help="a page between whose marks the tables go")
    parser.add_argument("--picture", type=Path, help="an SVG; needs matplotlib")
    given = parser.parse_args()
    order = {problem: place for place, problem in enumerate(PROBLEMS)}
    read = [Cell.read(path) for path in given.cells.glob("*.parquet")]
    whole = [cell for cell in read if cell is not None and methods(PROBLEMS[cell.problem]).keys() <= cell.tests.keys()]
    cells = sorted(whole, key=lambda cell: (order[cell.problem], list(SCALES).index(cell.scale)))
    count = f"{len(cells)} of {len(PROBLEMS) * len(SCALES)} cells are complete, {len(read) - len(cells)} are begun."
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join([count, "", *(line for cell in cells for line in cell.lines())]), encoding="utf-8")
    if given.page:
        blocks = {"wins": wins(cells), "best": winners(cells), "recipe": side_by_side(cells), "ablation": ablation(cells)}
        blocks = {name: lines if cells else [] for name, lines in blocks.items()}
        fill(given.page, {"count": [count], **blocks, "label_free": label_free.tables(given.label_free)})
    if given.picture and cells:
        draw(cells, given.picture)


if __name__ == "__main__":
    main()
