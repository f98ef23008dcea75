"""Co-rewarding-I and -II beside majority voting, self-certainty, entropy and ground truth on one task that the policy half solves.

The policy is a byte-level Llama of 0.7 M parameters, warm-started by `lightning_focal sft --config configs/sft_tiny_chain_sum.yaml`
on sums and differences of two two-digit numbers in two wordings, until it gets about half of the held-out questions right at
temperature 1. Training, selection (validation) and report (test) share no question with each other or with the warm start.

Equal budget: every arm trains on 256 of the policy's rollouts a step, for the same number of steps, with the same optimiser.
Co-rewarding-I takes 16 questions in two wordings, the others 32 in one. Co-rewarding-II rolls out its teacher as well (256 more, not
trained on). Seeds change the dice alone: questions, their order and the warm start are the same. Accuracies are of the task's own
scorer on sampled answers (temperature 1) to the original wording; it gives part of a mark for a wrong answer that contains the
right one (before training 0.494 in place of 0.48). Labels are looked at by ground truth alone; the others never see one. Best = the
checkpoint with the highest accuracy on the validation questions, the start included.

    python benchmarks/label_free.py --policy runs/sft_tiny_chain_sum/policy --seeds 5 --json benchmarks/results/label_free.json \\
        --figure docs/_static/label_free.svg
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import tempfile
import time
import warnings
from pathlib import Path
from statistics import mean, stdev

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from provenance import provenance

from lightning_focal.callbacks import CollapseWatch, EMATeacher, HeldOut
from lightning_focal.data import ReasoningGymData
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.modules import FrozenReference, GRPOModule, TeacherReference, Update, WarmupCosine
from lightning_focal.rewards import (
    CoRewardingI,
    CoRewardingII,
    EntropyReward,
    GroundTruthReward,
    MajorityVoteReward,
    SelfCertaintyReward,
)
from lightning_focal.runs import CSVLog

ARMS = {
    "ground truth": GroundTruthReward,
    "Co-rewarding-I": CoRewardingI,
    "Co-rewarding-II": CoRewardingII,
    "majority vote": MajorityVoteReward,
    "self-certainty": SelfCertaintyReward,
    "entropy": EntropyReward,
}
ROLLOUTS, GROUP = 256, 8
QUANTILE_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
CURVES = ("val/held_out/mean", "train/answer/accuracy", "train/vote/share", "train/vote/distinct", "train/vote/accuracy",
          "train/vote/unanswered", "train/rollout/length", "train/rollout/truncated", "train/policy/entropy", "train/policy/kl",
          "train/collapse/signs")  # fmt: skip


def data(arm: str, seed: int, arguments: argparse.Namespace) -> ReasoningGymData:
    pairs = arm == "Co-rewarding-I"
    return ReasoningGymData(
        task="chain_sum",
        task_args={"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
        train=1600,
        val=128,
        test=256,
        skip_train=arguments.skip_train,
        wording="bare",
        second_wording="told",
        system_prompt=None,
        pairs=pairs,
        batch_size=ROLLOUTS // GROUP // (2 if pairs else 1),
        eval_batch_size=128,
        seed=0,  # questions and their order are the same in every run; the dice are others
    )


def one_run(arm: str, seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    seed_everything(seed, verbose=False)
    second = arm == "Co-rewarding-II"
    module = GRPOModule(
        policy=str(arguments.policy),
        group_size=GROUP,
        val_group_size=8,
        sampling=Sampling(max_new_tokens=16),
        generator=HFGenerator(batch_size=ROLLOUTS),
        # the paper's coefficients: 0.001 to the teacher, 0.005 to the initial policy
        reference=TeacherReference() if second else FrozenReference(),
        update=Update(micro_batch_size=64, kl_coef=0.001 if second else 0.005, dual_clip=3.0),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=arguments.lr, weight_decay=0.01),
        lr_scheduler=lambda optimizer: WarmupCosine(optimizer, warmup=0.1, final=0.0),
        seed=seed,
    )
    best = ModelCheckpoint(folder / "checkpoints", monitor="val/held_out/mean", mode="max", save_top_k=1, save_last=True)
    held_out = HeldOut()
    questions = data(arm, seed, arguments)
    trainer = Trainer(
        max_epochs=-1,
        max_steps=arguments.steps,
        log_every_n_steps=1,
        val_check_interval=arguments.validate_every,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=[CSVLog(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
        callbacks=[ARMS[arm](), held_out, CollapseWatch(), best, *([EMATeacher()] if second else [])],
    )
    began = time.monotonic()
    before = accuracy(trainer, module, questions, None)
    trainer.fit(module, datamodule=questions)
    seconds = time.monotonic() - began
    final = accuracy(trainer, module, questions, None)
    seen = curves(folder, held_out)  # before another checkpoint is restored
    best_batch = max(zip(seen["val/held_out/mean"], seen["val/batch"], strict=True))[1]
    chosen = (
        accuracy(trainer, module, questions, best.best_model_path) if best_batch else before
    )  # the start is a checkpoint, too
    return {
        "before": before,
        "final": final,
        "best": chosen,
        "best_batch": best_batch,
        "seconds": seconds,
        "curves": seen,
    }


def accuracy(trainer: Trainer, module: GRPOModule, questions: ReasoningGymData, checkpoint: str | None) -> float:
    """Accuracy on the test questions."""
    (measures,) = trainer.test(module, datamodule=questions, ckpt_path=checkpoint, verbose=False)
    return float(measures["test/criterion/correct/score"])


def curves(folder: Path, held_out: HeldOut) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {name: [float(row[name]) for row in rows if row.get(name)] for name in CURVES[1:]}
    found = {name: [round(v, 4) for v in values] for name, values in found.items() if any(not math.isnan(v) for v in values)}
    found["val/batch"] = [entry["batch"] for entry in held_out.history]
    found["val/held_out/mean"] = [round(entry["measures"]["val/held_out/mean"], 4) for entry in held_out.history]
    return found


def interval(values: list[float]) -> list[float]:
    """Mean and 95 % interval over seeds by Student's t."""
    if len(values) < 2:
        return [values[0], math.nan, math.nan]
    half = QUANTILE_95[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return [mean(values), mean(values) - half, mean(values) + half]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="folder of the warm-started policy")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--validate-every", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--skip-train", type=int, default=6000, help="questions that the warm start has seen")
    parser.add_argument("--merge", type=Path, nargs="+", help="stored files of other seeds; with --seeds 0 nothing is run")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    merged = [json.loads(path.read_text()) for path in arguments.merge or []]
    for run in (run for part in merged for results in part["runs"].values() for run in results if not run["best_batch"]):
        run["best"] = run["before"]
    runs: dict[str, list[dict[str, object]]] = {
        arm: [run for part in merged for run in part["runs"].get(arm, [])] for arm in ARMS
    }
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for arm in arguments.arms:
            with tempfile.TemporaryDirectory() as folder:
                run = {"seed": seed, **one_run(arm, seed, arguments, Path(folder))}
            runs[arm].append(run)
            print(
                f"seed {seed} {arm}: {run['before']:.3f} -> final {run['final']:.3f}, best {run['best']:.3f} "
                f"(batch {run['best_batch']}), {run['seconds']:.0f} s",
                flush=True,
            )
            store(arguments, runs, merged)
    store(arguments, runs, merged)


def store(arguments: argparse.Namespace, runs: dict[str, list[dict[str, object]]], merged: list[dict[str, object]]) -> None:
    arms = {}
    for arm, results in runs.items():
        if not results:
            continue
        arms[arm] = {name: interval([r[name] for r in results]) for name in ("before", "final", "best")}
        for name in ("final", "best"):
            arms[arm][f"{name} minus before"] = interval([r[name] - r["before"] for r in results])
    settings = {name: str(value) for name, value in vars(arguments).items() if name not in ("json", "figure", "merge")}
    content = {
        "provenance": provenance() | {"merged_from": [part["provenance"] for part in merged]},
        "settings": merged[0]["settings"] if merged and not arguments.seeds else settings,
        "mean_low_high_over_seeds": arms,
        "runs": runs,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    lines = ["| reward | labels | seeds | before | final | best by validation | final minus before |", "|" + " --- |" * 7]
    for arm, values in arms.items():
        cells = [f"{values[c][0]:.3f} [{values[c][1]:.3f}, {values[c][2]:.3f}]" for c in ("before", "final", "best")]
        change = values["final minus before"]
        labels = "yes" if arm == "ground truth" else "no"
        lines.append(
            f"| {arm} | {labels} | {len(runs[arm])} | "
            + " | ".join(cells)
            + f" | {change[0]:+.3f} [{change[1]:+.3f}, {change[2]:+.3f}] |"
        )
    arguments.json.with_suffix(".md").write_text("\n".join(lines) + "\n")
    if arguments.figure:
        draw(runs, arguments.figure)


PANELS = {
    "val/held_out/mean": "accuracy on validation questions",
    "train/answer/accuracy": "accuracy of training rollouts, by gold answers",
    "train/vote/share": "share of the vote's winner",
    "train/policy/entropy": "entropy of the policy, nats a token",
}


def draw(runs: dict[str, list[dict[str, object]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 7.5), layout="constrained", sharex=True)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for colour, (arm, results) in enumerate((a, r) for a, r in runs.items() if r):
            lines = [run["curves"][name] for run in results if name in run["curves"]]
            if not lines:
                continue
            lines = [line for line in lines if len(line) == max(map(len, lines))]  # runs whose whole course is known
            table = torch.tensor(lines, dtype=torch.float64)
            steps = results[0]["curves"]["val/batch"] if name.startswith("val") else list(range(1, table.shape[1] + 1))
            centre = table.nanmean(0)
            axis.plot(steps, centre, color=f"C{colour}", label=arm)
            axis.fill_between(steps, table.amin(0), table.amax(0), color=f"C{colour}", alpha=0.15, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
    axes.flat[0].legend(fontsize=8)
    seeds = max(len(results) for results in runs.values())
    figure.suptitle(f"one task, one policy of 0.7 M parameters, mean and range over {seeds} seeds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
