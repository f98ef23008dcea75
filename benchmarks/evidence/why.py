"""Why moving weight gains little: the comparison of the smallest policy, with one thing about training changed at a time.

    python benchmarks/evidence/why.py --jobs 2                         # what is not stored yet
    python benchmarks/evidence/why.py --jobs 2 --problems noisy        # one rubric
    python benchmarks/evidence/why.py --page docs/evidence.md          # the table

Each change runs static weights (uniform, and the rubric's points), standardised Focal (gamma 1) and Focal (gamma 1, tau 1) on the test
seeds. A method is compared with the stronger of the two static ones under the same change, paired by seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from methods import Build
from problems import PROBLEMS
from run import STEPS, TEST, in_processes, in_silence, one_run, provenance, read_rows, write_rows
from tables import MEASURES, Finals, difference, fill, finals, mean, shown, table

from lightning_focal.functional import student_interval
from lightning_focal.rewards import FocalReward, GroupAdvantage, StandardisedFocalReward, StaticReward

SCALE, UNIFORM, POINTS, RECIPE, PAPER = "0.8M", "static, uniform", "static, points", "standardised Focal", "Focal"
CHANGES: dict[str, dict[str, int]] = {
    "groups of 32": {"group_size": 32, "prompts": 2},
    "three times as long": {"steps": 3 * STEPS},
    "advantages without the group's deviation": {},
}
NOTHING = "nothing changed"


def builds(change: str) -> dict[str, Build]:
    """The methods. Only the last change is one of theirs; standardised Focal has no group deviation, only those of criteria."""
    advantage = GroupAdvantage(scale="none" if change == "advantages without the group's deviation" else "group")
    table: dict[str, Build] = {
        UNIFORM: lambda source: StaticReward(source, weights="uniform", advantage=advantage),
        POINTS: lambda source: StaticReward(source, advantage=advantage),
        PAPER: lambda source: FocalReward(1.0, source=source, advantage=advantage),
    }
    return table if advantage.scale == "none" else table | {RECIPE: lambda source: StandardisedFocalReward(1.0, source=source)}


def run(problem: str, out: Path) -> None:
    """Run what a rubric lacks."""
    path = out / f"{problem}.parquet"
    rows = read_rows(path)
    done = {(row["change"], row["method"], row["seed"]) for row in rows}
    for change, settings in CHANGES.items():
        for method, build in builds(change).items():
            for seed in TEST:
                if (change, method, seed) in done:
                    continue
                found = one_run(SCALE, problem, build, seed, **settings)
                key = {"change": change, "method": method, "setting": "gamma 1", "seed": seed, "role": "test"}
                key |= {"steps": settings.get("steps", STEPS), "provenance": json.dumps(provenance())}
                rows.extend(key | row for row in found)
                write_rows(path, rows)
                print(f"{problem} {change} {method} seed {seed}: {found[-1]['score']:.3f} {found[-1]['worst']:.3f}", flush=True)


def unchanged(cells: Path, problem: str) -> dict[str, Finals]:
    """The same methods in the stored cell: the recipe at gamma 1 is in its ablation, the paper's form has the setting chosen there."""
    rows = pq.read_table(cells / f"{SCALE}-{problem}.parquet").to_pylist()
    found = finals(rows, "test", "method")
    return {
        UNIFORM: found[UNIFORM],
        POINTS: found[POINTS],
        PAPER: found[PAPER],
        RECIPE: finals(rows, "ablation", "setting")["recipe"],
    }


def tables(cells: Path, out: Path) -> list[str]:
    """Score and worst criterion minus the stronger static weights: means over rubrics with their intervals, and how often above."""
    stored = {problem: read_rows(out / f"{problem}.parquet") for problem in PROBLEMS}
    lines = []
    for change in (NOTHING, *CHANGES):
        by_problem = {}
        for problem, rows in stored.items():
            own = [row for row in rows if row["change"] == change]
            by_problem[problem] = unchanged(cells, problem) if change == NOTHING else finals(own, "test", "method")
        for method in (RECIPE, PAPER):
            apart = [against(found, method) for found in by_problem.values() if whole(found, method)]
            if apart:
                scores, worst = ([one[measure] for one in apart] for measure in ("score", "worst"))
                above = [f"{sum(middle > 0 for middle, *_ in of)} of {len(of)}" for of in (scores, worst)]
                means = [shown(student_interval([middle for middle, *_ in of])) for of in (scores, worst)]
                lines.append([change, method, means[0], above[0], means[1], above[1]])
    return table("changed | method | score minus static | above | worst criterion minus static | above", lines)


def whole(found: Mapping[str, Finals], method: str) -> bool:
    return all(len(found.get(name, {})) == len(TEST) for name in (UNIFORM, POINTS, method))


def against(found: Mapping[str, Finals], method: str) -> dict[str, Any]:
    static = max((UNIFORM, POINTS), key=lambda name: mean(found[name], "score"))
    return {measure: difference(found[method], found[static], measure) for measure in MEASURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--jobs", type=int, default=1, help="rubrics at once, one process and one thread each")
    parser.add_argument("--cells", type=Path, default=Path("benchmarks/results/evidence"), help="where run.py left its cells")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/why"))
    parser.add_argument("--page", type=Path, help="write the table between this page's marks, and run nothing")
    given = parser.parse_args()
    if given.page:
        fill(given.page, {"why": tables(given.cells, given.out)})
    elif len(given.problems) == 1:
        in_silence()
        run(given.problems[0], given.out)
    else:
        in_processes([[__file__, "--problems", problem, "--out", str(given.out)] for problem in given.problems], given.jobs)


if __name__ == "__main__":
    main()
