"""Held-out scores before and after the main job, from the run folders of finished runs.

lightning_focal fit --config configs/focal.yaml --seed_everything=0 --run_dir runs/focal_s0     (and so on)
python benchmarks/main_job.py --json benchmarks/results/main_job.json runs/focal_s0 runs/focal_s1 runs/static_s0 runs/static_s1
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch
import yaml
from provenance import provenance

from lightning_focal.functional import bootstrap_interval


def read(folder: Path) -> dict:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    evaluations = json.loads((folder / "held_out.json").read_text())["evaluations"]
    first, last = evaluations[0], evaluations[-1]
    pairs = [last["scores"][key] - first["scores"][key] for key in first["scores"]]
    with open(folder / "metrics.csv", newline="") as file:
        steps = [row for row in csv.DictReader(file) if row.get("train/time/step_s")]
    step, shape = (sorted(float(row[f"train/time/{name}_s"]) for row in steps)[len(steps) // 2] for name in ("step", "shape"))
    levels = {
        name: (first["measures"][name], last["measures"][name]) for name in last["measures"] if name.startswith("val/balance/")
    }
    levels |= {
        name: (first["measures"][name], last["measures"][name])
        for name in last["measures"]
        if name.startswith("val/criterion/") and name.endswith("/score")
    }
    return {
        "run": folder.name,
        "strategy": config["reward"]["class_path"].rsplit(".", 1)[-1],
        "arguments": {k: v for k, v in config["reward"]["init_args"].items() if v is not None},
        "seed": config["seed_everything"],
        "batches": last["batch"],
        "prompts": len(pairs),
        "before": list(bootstrap_interval(torch.tensor(list(first["scores"].values())))),
        "after": list(bootstrap_interval(torch.tensor(list(last["scores"].values())))),
        "difference": list(bootstrap_interval(torch.tensor(pairs, dtype=torch.float64))),
        "median_step_s": step,
        "median_shape_s": shape,
        "before_after": levels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [read(folder) for folder in arguments.runs]
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"provenance": provenance(), "runs": runs}, indent=1) + "\n")
    keys = [name for name in runs[0]["before_after"] if name.startswith("val/criterion/")]
    head = ["run", "before", "after", "paired difference", "worst criterion", *[name.split("/")[2] for name in keys]]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for run in runs:
        mean, low, high = run["difference"]
        worst = run["before_after"]["val/balance/worst"]
        cells = [f"{run['strategy']}, seed {run['seed']}", f"{run['before'][0]:.3f}", f"{run['after'][0]:.3f}"]
        cells += [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", f"{worst[0]:.3f} → {worst[1]:.3f}"]
        cells += ["{:.2f} → {:.2f}".format(*run["before_after"][name]) for name in keys]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    arguments.json.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
