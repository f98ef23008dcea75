"""Rewards without labels past the point where some collapse: two tasks, each method on the same five warm-started policies.

    python benchmarks/evidence/label_free.py --out benchmarks/results/label_free                        # what is not stored yet
    python benchmarks/evidence/label_free.py --again middle "majority vote" 200                         # one run once more

A seed draws the questions, the weights that a warm start begins from, and the dice. Every method trains on 128 of the policy's rollouts a
step; I and III take half of the questions in two wordings, the others all in one; the teacher's rollouts of II and III come on top. An
answer is what stands before the end of a response of at most two tokens, read as if it were boxed. Held-out questions are answered before
training and after every tenth step, by sampling at temperature 1: half of them choose the best checkpoint, the other half are reported.
"""

from __future__ import annotations

import argparse
import atexit
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from run import in_silence, provenance, read_rows, write_rows

from lightning_focal.callbacks import EMATeacher, HeldOut
from lightning_focal.data import PromptDataModule
from lightning_focal.functional import student_interval
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import export_policy
from lightning_focal.modules import FrozenReference, GRPOModule, SFTModule, TeacherReference, Update, WarmupCosine
from lightning_focal.rewards import (
    CoRewardingI,
    CoRewardingII,
    CoRewardingIII,
    EntropyReward,
    GroundTruthReward,
    MajorityVoteReward,
    SelfCertaintyReward,
)
from lightning_focal.types import Prompts, Rollouts

METHODS = {
    "ground truth": GroundTruthReward,
    "majority vote": MajorityVoteReward,
    "self-certainty": SelfCertaintyReward,
    "entropy": EntropyReward,
    "Co-rewarding-I": CoRewardingI,
    "Co-rewarding-II": CoRewardingII,
    "Co-rewarding-III": CoRewardingIII,
}
SEEDS = (200, 201, 202, 203, 204)
STEPS, EVERY, QUESTIONS, GROUP, HELD_OUT = 40, 10, 16, 8, 256
RATES = {"middle": 3e-3, "second": 2e-3}
"""Learning rates, found on seeds 7 and 8."""
WARM = 0.6
"""Held-out loss that ends the warm start, in nats a token of answer and eos: about half of the answers are right there."""
COLLAPSED = 0.85
"""A run has collapsed when its held-out accuracy ends at this share, or less, of the one it began with."""


def middle(dice: random.Random) -> tuple[str, str, str]:
    """Which of three digits lies between the others: the question, in other words, the answer."""
    digits = dice.choices("0123456789", k=3)
    return f"mid of {' '.join(digits)}", f"{','.join(digits)} halfway", sorted(digits)[1]


def second(dice: random.Random) -> tuple[str, str, str]:
    """Which of four digits is the second largest: the question, in other words, the answer."""
    digits = dice.choices("0123456789", k=4)
    return f"2nd of {' '.join(digits)}", f"{','.join(digits)} but one", sorted(digits)[2]


TASKS = {"middle": middle, "second": second}


class Questions(PromptDataModule):
    """Questions of a task in two wordings; no question stands in two splits."""

    def __init__(self, task: str, seed: int, pairs: bool, batch_size: int, train: tuple[int, int]) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=HELD_OUT, seed=seed)
        dice, drawn = random.Random(f"{task} {seed}"), dict[str, tuple[str, str, str]]()
        while len(drawn) < HELD_OUT + 400:
            question = TASKS[task](dice)
            drawn[question[0]] = question
        rows, self.pairs = list(drawn.values()), pairs
        self.rows = {"val": rows[:HELD_OUT], "train": rows[HELD_OUT:][slice(*train)]}
        self.files = {"train": task, "val": task, "test": None, "predict": None}

    def read_split(self, split: str, path: str) -> list[Any]:
        return self.rows[split]

    def make_prompts(self, split: str, rows: Sequence[tuple[str, str, str]]) -> Prompts:
        shown = [(row, view) for view in ((0, 1) if self.pairs and split == "train" else (0,)) for row in rows]
        return Prompts(
            ids=tuple(row[view] for row, view in shown),
            messages=tuple(({"role": "user", "content": row[view]},) for row, view in shown),
            answers=tuple(row[2] for row, _ in shown),
            extra=tuple({"response": row[2]} for row, _ in shown),
            questions=tuple(row[0] for row, _ in shown),
            views=tuple(view for _, view in shown),
        )


class Boxed(HFGenerator):
    """What a response says as a boxed answer."""

    def generate(self, *args: Any, **kwargs: Any) -> Rollouts:
        rollouts = super().generate(*args, **kwargs)
        return replace(rollouts, texts=tuple(tuple(rf"\boxed{{{text}}}" for text in group) for group in rollouts.texts))


def trainer(folder: str, **options: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    fixed = {"max_epochs": -1, "check_val_every_n_epoch": None, "accelerator": "cpu", "num_sanity_val_steps": 0}
    return Trainer(default_root_dir=folder, **fixed, **quiet, **options)


@cache
def warm_start(task: str, seed: int) -> Path:
    """Teach a random policy both wordings until it gets about half of the held-out questions right; return its folder."""
    folder = Path(tempfile.mkdtemp(prefix="label_free_"))
    atexit.register(shutil.rmtree, folder)
    seed_everything(seed, verbose=False)
    module = SFTModule(
        policy=f"random:tiny-llama?hidden=64&layers=2&seed={seed}",
        val_questions=0,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.98)),
        seed=seed,
    )
    until = EarlyStopping("val/loss/total", patience=10**9, stopping_threshold=WARM)
    fit = trainer(str(folder), max_steps=2000, val_check_interval=5, gradient_clip_val=1.0, callbacks=[until])
    fit.fit(module, datamodule=Questions(task, seed, True, 32, (0, 200)))
    export_policy(module.model, module.tokenizer, folder, write=True)
    return folder


def one_run(task: str, method: str, seed: int) -> list[dict[str, Any]]:
    """Warm-start and train once; return one mapping an evaluation."""
    pairs, taught = method in ("Co-rewarding-I", "Co-rewarding-III"), method in ("Co-rewarding-II", "Co-rewarding-III")
    policy = warm_start(task, seed)
    held_out, began, rows = HeldOut(), time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        seed_everything(seed, verbose=False)
        module = GRPOModule(
            policy=str(policy),
            group_size=GROUP,
            val_group_size=4,
            sampling=Sampling(max_new_tokens=2),
            generator=Boxed(batch_size=4 * HELD_OUT),
            reference=TeacherReference() if taught else FrozenReference(),
            update=Update(micro_batch_size=128, kl_coef=0.001 if taught else 0.005),  # the paper's
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=RATES[task], weight_decay=0.01),
            lr_scheduler=lambda optimizer: WarmupCosine(optimizer, warmup=0.1, final=0.0),
            seed=seed,
        )
        strategy = METHODS[method](equivalence="string")
        callbacks = [strategy, held_out, *([EMATeacher()] if taught else [])]
        fit = trainer(folder, max_steps=STEPS, val_check_interval=EVERY, callbacks=callbacks)
        fit.fit(module, datamodule=Questions(task, seed, pairs, QUESTIONS // (2 if pairs else 1), (200, 400)))
    for entry in held_out.history:
        scores = list(entry["scores"].values())
        half = len(scores) // 2
        rows.append(
            {
                "batch": entry["batch"],
                "choosing": sum(scores[:half]) / half,
                "accuracy": sum(scores[half:]) / (len(scores) - half),
                "measures": json.dumps({k: v for k, v in entry["measures"].items() if v == v}),
                "seconds": time.process_time() - began,
            }
        )
    return rows


def run_missing(out: Path, tasks: list[str], methods: list[str], seeds: list[int]) -> None:
    """Run what is not stored; a task's file is written anew after every run."""
    facts = provenance() | {name: version(name) for name in ("lightning", "transformers")}
    for seed in seeds:
        for task in tasks:
            path = out / f"{task}.parquet"
            for method in methods:
                rows = read_rows(path)
                if any((row["method"], row["seed"]) == (method, seed) for row in rows):
                    continue
                key = {"task": task, "method": method, "seed": seed, "steps": STEPS, "rate": RATES[task]}
                found = one_run(task, method, seed)
                write_rows(path, rows + [key | row | {"provenance": json.dumps(facts)} for row in found])
                course = " ".join(f"{row['accuracy']:.2f}" for row in found)
                print(f"{task} {method} seed {seed}: {course}, {found[-1]['seconds']:.0f} s", flush=True)


def again(out: Path, task: str, method: str, seed: int) -> bool:
    """Run once more what is stored; whether every number is the same to the last digit."""
    stored = [row for row in read_rows(out / f"{task}.parquet") if (row["method"], row["seed"]) == (method, seed)]
    if not stored:
        raise SystemExit(f"{out} holds no run of {method!r} on {task!r} with seed {seed}")
    found = one_run(task, method, seed)
    same = all(row[name] == old[name] for old, row in zip(stored, found, strict=True) for name in row if name != "seconds")
    print("the same numbers, to the last digit" if same else f"other numbers: stored {stored[-1]}, now {found[-1]}")
    return same


def outcomes(rows: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, float]]]:
    """Accuracy before, at the end, and at the checkpoint with the best choosing half, by method and seed."""
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in rows:
        runs.setdefault(row["method"], {}).setdefault(row["seed"], []).append(row)
    return {
        method: {
            seed: {
                "before": run[0]["accuracy"],
                "final": run[-1]["accuracy"],
                "best": max(run, key=lambda row: row["choosing"])["accuracy"],
            }
            for seed, run in runs[method].items()
        }
        for method in METHODS
        if method in runs
    }


def task_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line a method; differences are paired by seed."""

    def apart(method: str, other: str, than: str = "final") -> str:
        pairs = [run["final"] - found[other][seed][than] for seed, run in found[method].items() if seed in found.get(other, {})]
        itself = method == other and than == "final"
        return "" if itself or not pairs else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*student_interval(pairs))

    found = outcomes(rows)
    lines = [
        "| reward | runs | before | final | best | collapsed | final minus before | final minus majority vote | final minus ground truth |"
    ]
    lines.append("|" + " --- |" * 9)
    for method, of in found.items():
        levels = [f"{sum(run[name] for run in of.values()) / len(of):.3f}" for name in ("before", "final", "best")]
        collapsed = sum(run["final"] <= COLLAPSED * run["before"] for run in of.values())
        cells = [method, len(of), *levels, f"{collapsed} of {len(of)}", apart(method, method, "before")]
        cells.append(apart(method, "majority vote"))
        cells.append(apart(method, "ground truth"))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def tables(out: Path) -> list[str]:
    """Lines of the tables of all tasks that are stored."""
    lines = []
    for task, draw in TASKS.items():
        if rows := read_rows(out / f"{task}.parquet"):
            first, again, answer = draw(random.Random(0))
            lines += [
                f"**{task.capitalize()}**: `{first}`, in other words `{again}`; the answer is `{answer}`.",
                "",
                *task_table(rows),
                "",
            ]
    return lines or ["Nothing is stored yet."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/label_free"), help="folder of stored runs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--again", nargs=3, metavar=("TASK", "METHOD", "SEED"))
    given = parser.parse_args()
    in_silence()
    if given.again:
        raise SystemExit(not again(given.out, *given.again[:2], int(given.again[2])))
    run_missing(given.out, given.tasks, given.methods, given.seeds)


if __name__ == "__main__":
    main()
