"""Time votes over 256 groups of 8 answers on one core: numbers in many writings, and formulas that math-verify must compare."""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from pathlib import Path

from provenance import provenance

from lightning_focal.functional import majority_vote
from lightning_focal.judges import Equivalence
from lightning_focal.judges.math_process import stop_process
from lightning_focal.judges.written_answers import read_answer

PROMPTS, GROUP = 256, 8


def numbers(dice):
    v = dice.randint(-500, 5000)
    forms = (f"{v}", f"{v:,}", f"{v}.0", rf"\${v}", f"x={v}", f"{v + 1}", rf"{v}\text{{ cm}}", rf"\frac{{{v}}}{{3}}", f"{v}/3")
    return [dice.choice(forms) for _ in range(GROUP)]


def formulas(dice):
    a, b = dice.randint(2, 9), dice.randint(2, 40)
    forms = (rf"\frac{{\sqrt{{{b}}}}}{{{a}}}", rf"\frac{{1}}{{{a}}}\sqrt{{{b}}}", rf"{a}\sqrt{{{b}}}", f"{b}", f"x^2+{a}x")
    return [dice.choice(forms) for _ in range(GROUP)]


def measure(make, seed):
    """Seconds of voting once math-verify's process runs: on the clock, of this process, and of that one."""
    dice, same = random.Random(seed), Equivalence()
    groups = [make(dice) for _ in range(PROMPTS)]
    same(r"\sqrt{8}", r"2\sqrt{2}")
    read_answer.cache_clear()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    wall, cpu = time.perf_counter(), time.process_time()
    distinct = sum(majority_vote(group, same).distinct for group in groups)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stop_process()
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "math_verify_cpu_s": round(child, 3), "distinct": distinct}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "votes.json")
    args = parser.parse_args()
    results = {make.__name__: measure(make, args.seed) for make in (numbers, formulas)}
    results = {"prompts": PROMPTS, "group": GROUP, **results, **provenance()}
    args.json.write_text(json.dumps(results, indent=1, default=str) + "\n")
    print(json.dumps(results, indent=1, default=str))


if __name__ == "__main__":
    main()
