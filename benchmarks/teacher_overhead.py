"""What Co-rewarding-II's teacher costs: its steps and those of majority voting in turns, in one process.

Both hold the policy to a reference with a KL term (the teacher there, a frozen copy here) and train on equal rollouts. The overhead
is `(step of II - the teacher's own generation) / step of majority voting`: the moving average, the vote and the teacher as a
reference, with the generation that no implementation can do without taken out; `step_ratio` is that of the whole steps.

    python benchmarks/teacher_overhead.py --json benchmarks/results/teacher_overhead.json
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import tempfile
import warnings
from pathlib import Path
from statistics import median

import torch
from lightning.pytorch import Trainer, seed_everything
from provenance import provenance

from lightning_focal.callbacks import EMATeacher
from lightning_focal.data import ReasoningGymData
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.modules import FrozenReference, GRPOModule, TeacherReference, Update
from lightning_focal.rewards import CoRewardingII, MajorityVoteReward
from lightning_focal.runs import CSVLog

SIZES = {
    "tiny": {
        "policy": "runs/sft_tiny_chain_sum/policy",
        "questions": 32,
        "tokens": 16,
        "micro": 64,
        "dtype": None,
        "precision": "32-true",
        "data": {
            "task_args": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
            "skip_train": 6000,
            "wording": "bare",
            "system_prompt": None,
        },
    },
    "smollm2": {
        "policy": "runs/sft_chain_sum/policy",
        "questions": 8,
        "tokens": 48,
        "micro": 16,
        "dtype": "bfloat16",
        "precision": "bf16-mixed",
        "data": {"task_args": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}, "skip_train": 1000},
    },
}
"""Policies that `lightning_focal sft` has warm-started: one that never boxes an answer has no vote, and no update."""


def arm(second: bool, size: dict[str, object], steps: int, folder: Path) -> tuple[Trainer, GRPOModule, ReasoningGymData]:
    seed_everything(0, verbose=False)
    module = GRPOModule(
        policy=str(size["policy"]),
        group_size=8,
        sampling=Sampling(max_new_tokens=int(size["tokens"])),
        generator=HFGenerator(dtype=size["dtype"]),
        reference=TeacherReference() if second else FrozenReference(),
        update=Update(micro_batch_size=int(size["micro"]), kl_coef=0.001),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-6),
        seed=0,
    )
    questions = int(size["questions"])
    data = ReasoningGymData(
        task="chain_sum", train=questions * steps, val=0, test=0, pairs=False, batch_size=questions, seed=0, **size["data"]
    )
    trainer = Trainer(
        max_epochs=1,
        log_every_n_steps=1,
        accelerator="auto",
        precision=size["precision"],
        logger=[CSVLog(folder)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        callbacks=[CoRewardingII(), EMATeacher()] if second else [MajorityVoteReward()],
    )
    return trainer, module, data


def times(second: bool, size: dict[str, object], steps: int) -> list[dict[str, float]]:
    """Seconds by phase of each step but the first."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, module, data = arm(second, size, steps, Path(folder))
        trainer.fit(module, datamodule=data)
        with (Path(folder) / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = [{k: float(v) for k, v in row.items() if k.startswith("train/time/") and v} for row in csv.DictReader(file)]
    return [row for row in rows if row][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--policies", nargs="+", help="folders of the warm-started policies, one for each of `--sizes`")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--steps", type=int, default=4, help="a turn, the first one dropped")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = {}
    for number, name in enumerate(arguments.sizes):
        given = {"policy": arguments.policies[number]} if arguments.policies else {}
        size, taken = SIZES[name] | given, {True: [], False: []}
        for _ in range(arguments.rounds):
            for second in (False, True):
                taken[second] += times(second, size, arguments.steps)
        vote, teacher = taken[False], taken[True]
        own = [row["train/time/teacher_generate_s"] for row in teacher]
        step = {
            "majority vote": [r["train/time/step_s"] for r in vote],
            "Co-rewarding-II": [r["train/time/step_s"] for r in teacher],
        }
        without = [whole - generation for whole, generation in zip(step["Co-rewarding-II"], own, strict=True)]
        results[name] = {
            "overhead": median(without) / median(step["majority vote"]),
            "step_ratio": median(step["Co-rewarding-II"]) / median(step["majority vote"]),
            "teacher_generate_s": median(own),
            "step_s": {method: {"min": min(v), "median": median(v), "max": max(v), "n": len(v)} for method, v in step.items()},
            "phases_s": {
                method: {key.split("/")[2]: median(row[key] for row in rows) for key in rows[0] if key.endswith("_s")}
                for method, rows in (("majority vote", vote), ("Co-rewarding-II", teacher))
            },
        }
        print(f"{name}: overhead {results[name]['overhead']:.2f}, whole steps {results[name]['step_ratio']:.2f}", flush=True)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"provenance": provenance(), "settings": SIZES, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
