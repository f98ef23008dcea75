"""What dynamic sampling buys and costs: the share of groups with a contrast in the update, and the rollouts that it takes.

A tiny policy learns from 160 prompts with two criteria each. A fifth of the prompts is solved (whatever is written meets both criteria), a
fifth is hopeless (nothing does), of the others the untrained policy meets each criterion about every other time. Three runs a seed, alike but
for one setting:

* ``off``: every batch as it comes;
* ``refill``: `--model.dynamic_sampling='{max_rounds: 4}'`;
* ``refill and curriculum``: with `--data.curriculum='{band: [0.02, 0.98]}'` beside it; by the second epoch the levels are known.

``contrastive`` is the share of groups in the update in which a criterion varies, counted from the rollouts on the disk by the definition, not
by what the run has logged of itself; ``generated`` is the number of rollouts over that of ``off``; ``tokens`` the same of their tokens.
``share_of_useless`` is the share of groups without a contrast under ``off``.

With ``--kills`` a run with refills, replay and a curriculum is killed so often and gone on with, see ``kill_resume.py``.

    python benchmarks/dynamic_sampling.py --json benchmarks/results/dynamic_sampling.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kill_resume
import yaml
from provenance import provenance

PATTERNS = {"solved": (".*", r"(?s)."), "hopeless": ("no way", "nowhere"), "open": ("[A-Z]", "[a-z]")}
SETTINGS: dict[str, list[str]] = {
    "off": [],
    "refill": ["--model.dynamic_sampling={max_rounds: 4}"],
    "refill and curriculum": ["--model.dynamic_sampling={max_rounds: 4}", "--data.curriculum={band: [0.02, 0.98]}"],
}


def kind_of(row: int) -> str:
    return ("solved", "hopeless", "open", "open", "open")[row % 5]


def write_prompts(path: Path, count: int) -> None:
    rows = []
    for row in range(count):
        kinds = PATTERNS[kind_of(row)]
        rubric = [{"name": f"has-{i}", "points": 1, "check": {"kind": "regex", "pattern": kind}} for i, kind in enumerate(kinds)]
        rows.append({"id": f"{kind_of(row)}-{row}", "prompt": f"Say {row}", "rubric": rubric})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def config(prompts: Path, epochs: int) -> dict[str, Any]:
    return {
        "reward": {"class_path": "lightning_focal.rewards.FocalReward", "init_args": {"gamma": 1.0, "scope": "running"}},
        "model": {
            "policy": "random:tiny-llama?hidden=32&layers=1&heads=2&kv_heads=1&std=0.1",
            "group_size": 8,
            "sampling": {"max_new_tokens": 6},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.0001}},
        },
        "data": {"class_path": "lightning_focal.data.RubricDataModule", "init_args": {"train": str(prompts), "batch_size": 10}},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "precision": "32-true"},
    }


def train(settings: Path, folder: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "lightning_focal", "fit", f"--config={settings}", f"--run_dir={folder}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def contrast(group: list[dict[str, Any]]) -> bool:
    """Whether a criterion that weighs has two scores in a group."""
    by_criterion: dict[str, set[float]] = {}
    for row in group:
        for criterion in row["criteria"]:
            if criterion["score"] is not None and criterion["prior_weight"] > 0:
                by_criterion.setdefault(criterion["name"], set()).add(criterion["score"])
    return any(len(scores) > 1 for scores in by_criterion.values())


def look(folder: Path) -> dict[str, float]:
    """Read the recorded rollouts of a run."""
    import pyarrow.parquet as pq

    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for path in sorted((folder / "rollouts").glob("train-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            groups.setdefault((row["batch"], row["prompt_id"]), []).append(row)
    kept = [group for group in groups.values() if not group[0]["rejected"]]
    half = max(batch for batch, _ in groups) // 2
    late = [group for group in kept if group[0]["batch"] > half]
    return {
        "batches": len({batch for batch, _ in groups}),
        "groups": len(kept),
        "contrastive": sum(map(contrast, kept)) / len(kept),
        "contrastive_second_half": sum(map(contrast, late)) / len(late),
        "rollouts": sum(map(len, groups.values())),
        "tokens": sum(row["tokens"] for group in groups.values() for row in group),
    }


def measure(top: Path, seeds: int, epochs: int) -> dict[str, Any]:
    prompts, settings = top / "prompts.jsonl", top / "config.yaml"
    write_prompts(prompts, 160)
    settings.write_text(yaml.safe_dump(config(prompts, epochs)), encoding="utf-8")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for seed in range(seeds):
        for name, options in SETTINGS.items():
            folder = top / f"{name.replace(' ', '_')}-{seed}"
            if not (folder / "metrics.csv").exists():
                train(settings, folder, [*options, f"--seed_everything={seed}"])
            found = look(folder)
            plain = runs["off"][seed] if name != "off" else found
            row = {
                **found,
                "generated": found["rollouts"] / plain["rollouts"],
                "tokens_generated": found["tokens"] / plain["tokens"],
            }
            runs[name].append(row)
            print(
                f"seed {seed}, {name}: {row['contrastive']:.1%} contrastive, {row['generated']:.2f} times the rollouts",
                flush=True,
            )
    worst = min(row["contrastive"] for name in SETTINGS if name != "off" for row in runs[name])
    most = max(row["generated"] for rows in runs.values() for row in rows)
    useless = 1 - sum(row["contrastive"] for row in runs["off"]) / seeds
    return {"runs": runs, "share_of_useless": useless, "least_contrastive": worst, "most_generated": most}


def killed_config(prompts: Path) -> Any:
    """Everything that has a state: refills, replay, a curriculum, running levels, several steps a batch."""

    def made(batches: int) -> dict[str, Any]:
        settings = config(prompts, -(-batches // 8))
        settings["data"]["init_args"] |= {
            "val": str(prompts),
            "limit_val": 4,
            "curriculum": {"band": [0.0, 0.9], "revisit": 0.3},
            "limit_train": 40,
            "batch_size": 5,
        }
        settings["model"] |= {
            "dynamic_sampling": {"max_rounds": 2, "replay_buffer_size": 40},
            "group_size": 2,
            "update": {"mini_batches": 2},
        }
        settings["model"]["optimizer"]["init_args"]["lr"] = 0.01
        return {**settings, "seed_everything": 0, "checkpoint": {"every_n_batches": 1}}

    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of 16 batches")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument(
        "--keep", type=Path, help="a folder for the runs, of which those that it has are not repeated; a temporary one by default"
    )
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(options.keep or temporary).resolve()
        top.mkdir(parents=True, exist_ok=True)
        result = measure(top, options.seeds, options.epochs)
        if options.kills:
            (top / "kills").mkdir()
            made = killed_config(top / "prompts.jsonl")
            killed = kill_resume.measure(top / "kills", options.kills, 1, 4 * options.kills, 0, made)
            counts = kill_resume.table(top / "kills" / "whole" / "metrics.csv").decode().splitlines()
            names = counts[0].split(",")
            for name in ("rejected", "replayed", "skipped"):
                at = names.index(f"train/sampling/{name}")
                killed[name] = sum(float(row.split(",")[at] or 0) for row in counts[1:])
            result["killed"] = killed
    result["bars"] = {
        "at least 95 % of the groups in the update are contrastive": result["least_contrastive"] >= 0.95,
        "at most 2.5 times the generation": result["most_generated"] <= 2.5,
    } | ({"killed and resumed bit for bit": result["killed"]["identical"]} if options.kills else {})
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**result, "provenance": provenance()}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=1))
    sys.exit(not all(result["bars"].values()))


if __name__ == "__main__":
    main()
