"""How a step's time grows: with rollouts, response length, number of criteria and group size; and where it goes.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json --figure docs/_static/scaling.svg
    python benchmarks/scaling.py --profile --size small

Steps run through Trainer and GRPOModule, the values of an axis in turns; the first step of each is dropped.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from provenance import provenance
from steps import JOBS, PHASES, Turns, busy, make_ours, policy_folder, quiet, spread

AXES = {"rollouts": (16, 32, 64, 128), "length": (64, 128, 256, 512), "group_size": (2, 4, 8, 16), "criteria": (1, 4, 16, 64)}


def job_at(job, axis, value):
    """The job with one thing changed; lengths with 16 rollouts, group sizes with 64."""
    if axis == "rollouts":
        return replace(job, prompts=value // job.group)
    if axis == "length":
        return replace(job, prompts=2, tokens=value)
    if axis == "group_size":
        return replace(job, prompts=64 // value, group=value)
    return job


def trivial_rubric(criteria):
    from lightning_focal.rubrics import Criterion, Rubric

    check = {"kind": "max_words", "words": 1000}
    return Rubric(tuple(Criterion(f"c{i}", "At most 1000 words.", check=check) for i in range(criteria)))


def measure(folder, job, options, axis, values, steps):
    """Seconds of each phase by value: ``steps`` timed steps of each value, in turns."""
    from lightning_focal.rewards import RubricScores

    names = [f"{axis}={value}" for value in values]
    turns = Turns(names, options.threads)
    workers = {}
    with tempfile.TemporaryDirectory() as output:
        for name, value in zip(names, values, strict=True):
            extra = {"source": RubricScores(), "rubric": trivial_rubric(value)} if axis == "criteria" else {}
            arguments = (folder, job_at(job, axis, value), options, steps + 1, turns, output, {})
            workers[name] = make_ours(*arguments, name=name, **extra)
        turns.run(workers)
    return {value: turns.steps[name][1:] for name, value in zip(names, values, strict=True)}


def models_own(folder, job, lengths):
    """Seconds of a plain forward and backward pass of the bare model by response length: what no library can avoid."""
    from lightning_focal.models import load_policy

    policy, _ = load_policy(folder)
    seconds = {}
    for length in lengths:
        ids = torch.randint(0, 2000, (8, job.words + length))
        times = []
        for _ in range(3):
            began = time.perf_counter()
            policy(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            times.append(time.perf_counter() - began)
        seconds[length] = min(times)
    return seconds


def exponent(xs, ys):
    """Slope of ``log y`` over ``log x`` by least squares."""
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def draw(result, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(result["seconds"]), figsize=(13, 3.2), layout="constrained", squeeze=False)
    for place, axis in zip(axes[0], result["seconds"], strict=True):
        values = [int(value) for value in result["seconds"][axis]]
        for phase in PHASES:
            place.plot(values, [s[phase]["median"] for s in result["seconds"][axis].values()], marker="o", label=phase)
        place.set_xscale("log", base=2)
        place.set_xlabel(axis.replace("_", " "))
        place.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("seconds a step")
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def profile(folder, job, options, steps):
    """Seconds of each phase of a step, and tokens per second while generating."""
    phases = measure(folder, job, options, "job", (options.size,), steps)[options.size]
    medians = {phase: spread([step[phase] for step in phases])["median"] for phase in (*PHASES, "rewards")}
    for phase, seconds in medians.items():
        print(f"{phase:10} {seconds:8.3f} s  {100 * seconds / medians['total']:5.1f} %")
    print(f"{job.prompts * job.group * job.tokens / medians['generate']:.0f} tokens/s while generating")
    return medians


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(JOBS), default="tiny")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each value")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="the phases of the job itself, no axes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.mixed = False
    torch.set_num_threads(options.threads)
    quiet()
    job, before, began = JOBS[options.size], busy(), time.perf_counter()
    result = {"size": options.size, "precision": options.precision, "steps": options.steps}
    with tempfile.TemporaryDirectory() as folder:
        source = policy_folder(job, Path(folder) / "policy")
        if options.profile:
            result["profile"] = profile(source, job, options, options.steps)
        else:
            # Criteria take hardly any time: more turns to see how little.
            steps = {axis: options.steps * (3 if axis == "criteria" else 1) for axis in options.axes}
            runs = {axis: measure(source, job, options, axis, AXES[axis], steps[axis]) for axis in options.axes}
            result["seconds"] = {
                axis: {
                    value: {phase: spread([step[phase] for step in found]) for phase in (*PHASES, "rewards")}
                    for value, found in of.items()
                }
                for axis, of in runs.items()
            }
            result["exponents"] = {
                axis: exponent(AXES[axis], [s["total"]["median"] for s in result["seconds"][axis].values()])
                for axis in options.axes
            }
            if "criteria" in runs:
                one, many = (runs["criteria"][value] for value in (AXES["criteria"][0], AXES["criteria"][-1]))
                pairs = [b["total"] / a["total"] - 1 for a, b in zip(one, many, strict=True)]
                result["growth_from_1_to_64_criteria"] = spread(pairs)
            if "length" in runs:
                own = models_own(source, job, AXES["length"])
                result["models_own_seconds"] = own
                result["models_own_exponent"] = exponent(own, own.values())
    after = busy()
    seconds = time.perf_counter() - began
    result["other_processes_cpu_share"] = ((after[0] - before[0]) - (after[1] - before[1])) / seconds / 2
    result["provenance"] = provenance()
    for key in ("exponents", "models_own_exponent", "growth_from_1_to_64_criteria", "other_processes_cpu_share"):
        if key in result:
            print(key, result[key])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.figure and "seconds" in result:
        draw(result, options.figure)


if __name__ == "__main__":
    main()
