"""Cells of the evidence: a policy scale and a rubric, every method on tuning seeds, each method's best setting on test seeds.

    python benchmarks/evidence/run.py --out benchmarks/results/evidence --jobs 2
    python benchmarks/evidence/run.py --scales 0.8M --problems noisy --out benchmarks/results/evidence    # one cell
    python benchmarks/evidence/run.py --again 0.8M noisy Focal "gamma 1, tau 1" 100                       # one run once more

A cell's file is written anew after every run, so a grid that was stopped goes on where it was. Held-out prompts are answered before
training, after each third of it, and judged without noise.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

import torch
from lightning.pytorch import Trainer, seed_everything
from methods import Build, ablations, methods
from problems import PROBLEMS, Verdicts
from provenance import provenance

from lightning_focal.callbacks import HeldOut
from lightning_focal.data import RandomPrompts
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.modules import GRPOModule, Update

SCALES = {"0.8M": (192, 2, 7e-4), "3M": (384, 2, 3e-4), "10M": (592, 3, 1e-4)}
"""Width, depth and learning rate of the policy; shallow, since a short response costs a layer's overhead more than its width."""
STEPS, THIRDS = 48, 3
TUNING, TEST = (0, 1), (100, 101, 102, 103, 104)


def one_run(
    scale: str, problem: str, build: Build, seed: int, steps: int = STEPS, group_size: int = 8, prompts: int = 8
) -> list[dict[str, Any]]:
    """Train once on groups of ``group_size`` rollouts to ``prompts`` prompts a step; return one mapping an evaluation."""
    seed_everything(seed, verbose=False)
    hidden, layers, rate = SCALES[scale]
    task = PROBLEMS[problem]
    strategy = build(Verdicts(task, seed if task.flips else None))
    strategy.held_out = Verdicts(task)
    module = GRPOModule(
        policy=f"random:tiny-llama?hidden={hidden}&layers={layers}&seed={seed}",
        group_size=group_size,
        val_group_size=16,
        generator=HFGenerator(batch_size=512),
        sampling=Sampling(max_new_tokens=task.tokens),
        update=Update(micro_batch_size=64),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0),
        seed=seed,
    )
    held_out, began = HeldOut(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            val_check_interval=steps // THIRDS,
            num_sanity_val_steps=0,
            callbacks=[strategy, held_out],
        )
        trainer.fit(module, datamodule=RandomPrompts(train=prompts * steps, val=32, batch_size=prompts, seed=seed))
    rows = []
    for entry in held_out.history:
        measures = entry["measures"]
        scores = {c.name: measures[f"val/criterion/{c.name}/score"] for c in task.criteria}
        learnable = [score for name, score in scores.items() if name not in task.impossible]
        rows.append(
            {
                "batch": entry["batch"],
                "score": measures["val/reward/prior"],
                "mean": measures["val/balance/mean"],
                "worst": min(learnable),
                "bottom_quartile": measures["val/balance/bottom_quartile"],
                "strict_completion": measures["val/balance/strict_completion"],
                "criteria": json.dumps(scores),
                "seconds": time.process_time() - began,
            }
        )
    return rows


def cell(
    scale: str, problem: str, out: Path, only: list[str] | None, tuning: tuple[int, ...], test: tuple[int, ...], steps: int
) -> None:
    """Run what a cell lacks."""
    path = out / f"{scale}-{problem}.parquet"
    rows = read_rows(path)
    done = {(row["method"], row["setting"], row["seed"]) for row in rows}
    facts = provenance()
    facts |= {name: version(name) for name in ("lightning", "transformers", "torchmetrics")}

    def add(method: str, setting: str, build: Build, seed: int, role: str) -> None:
        if (method, setting, seed) in done:
            return
        found = one_run(scale, problem, build, seed, steps)
        key = {
            "scale": scale,
            "problem": problem,
            "method": method,
            "setting": setting,
            "seed": seed,
            "role": role,
            "steps": steps,
        }
        rows.extend(key | row | {"provenance": json.dumps(facts)} for row in found)
        write_rows(path, rows)
        last = found[-1]
        print(
            f"{scale} {problem} {method} [{setting}] seed {seed}: score {last['score']:.3f} worst {last['worst']:.3f}", flush=True
        )

    for method, settings in methods(PROBLEMS[problem]).items():
        if only and method not in only:
            continue
        if len(settings) > 1:
            for setting, build in settings.items():
                for seed in tuning:
                    add(method, setting, build, seed, "tuning")
        best = best_setting([row for row in rows if row["method"] == method], list(settings))
        for seed in test:
            add(method, best, settings[best], seed, "test")
    for name, build in ablations(PROBLEMS[problem]).items() if scale == "0.8M" and not only else ():
        for seed in test:
            add("ablation", name, build, seed, "ablation")


def best_setting(rows: list[dict[str, Any]], settings: list[str]) -> str:
    """The setting with the highest mean final score over tuning seeds; the first of equal ones."""
    if len(settings) == 1:
        return settings[0]

    def final(setting: str) -> float:
        own = [row for row in rows if row["setting"] == setting and row["role"] == "tuning"]
        last = [row["score"] for row in own if row["batch"] == row["steps"]]
        return sum(last) / len(last)

    return max(settings, key=final)


def read_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist()) if path.exists() else []


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(rows), part, compression="zstd")
    part.replace(path)


def again(out: Path, scale: str, problem: str, method: str, setting: str, seed: int) -> bool:
    """Run once more what is stored; whether every number is the same to the last digit."""
    key = {"scale": scale, "problem": problem, "method": method, "setting": setting, "seed": seed}
    stored = [
        row for row in read_rows(out / f"{scale}-{problem}.parquet") if all(row[name] == value for name, value in key.items())
    ]
    if not stored:
        raise SystemExit(f"{out} holds no run {key}")
    build = ablations(PROBLEMS[problem])[setting] if method == "ablation" else methods(PROBLEMS[problem])[method][setting]
    found = one_run(scale, problem, build, seed, stored[0]["steps"])
    same = all(row[name] == old[name] for old, row in zip(stored, found, strict=True) for name in row if name != "seconds")
    print("the same numbers, to the last digit" if same else f"other numbers: stored {stored[-1]}, now {found[-1]}")
    return same


def in_silence() -> None:
    """Compute on one thread and print a line a run, without those of other packages."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_focal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)


def in_processes(scripts: list[list[str]], jobs: int) -> None:
    """Run scripts with their arguments, ``jobs`` at a time, and exit with the largest status."""
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda script: subprocess.run([sys.executable, *script], check=False).returncode, scripts))
    raise SystemExit(max(codes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", nargs="+", choices=SCALES, default=list(SCALES))
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", help="these alone; all by default, and the ablation")
    parser.add_argument("--seeds", type=int, default=len(TEST), help="test seeds; as many tuning seeds, at most two")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=1, help="cells at once, one process and one thread each")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence"))
    parser.add_argument("--again", nargs=5, metavar=("SCALE", "PROBLEM", "METHOD", "SETTING", "SEED"))
    given = parser.parse_args()
    in_silence()
    if given.again:
        raise SystemExit(not again(given.out, *given.again[:4], int(given.again[4])))
    cells = [(scale, problem) for scale in given.scales for problem in given.problems]
    if given.jobs == 1 or len(cells) == 1:
        for scale, problem in cells:
            seeds = min(given.seeds, len(TUNING)), given.seeds
            cell(scale, problem, given.out, given.methods, TUNING[: seeds[0]], TEST[: seeds[1]], given.steps)
        return
    rest = ["--seeds", str(given.seeds), "--steps", str(given.steps), "--out", str(given.out)]
    rest += ["--methods", *given.methods] if given.methods else []
    in_processes([[__file__, "--scales", scale, "--problems", problem, *rest] for scale, problem in cells], given.jobs)


if __name__ == "__main__":
    main()
