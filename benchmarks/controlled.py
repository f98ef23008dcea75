"""Focal Reward against both static baselines on the controlled problem of nine criteria, at equal steps, over seeds.

The policy is a randomly initialised Llama of 0.1 M parameters over 259 byte tokens; a criterion looks at one of six response tokens
and is met by a range of token ids, so its starting rate is known: 0.90 down to 0.02. Three pairs pull against each other, one of
them excludes itself (see `lightning_focal.rewards.NINE_CHOICES`). Seeds change the weights, the prompts, their order and the dice.

    python benchmarks/controlled.py --seeds 10 --json benchmarks/results/controlled.json --figure docs/_static/controlled.svg
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from provenance import provenance

from lightning_focal.callbacks import HeldOut
from lightning_focal.data import RandomPrompts
from lightning_focal.functional import bootstrap_interval
from lightning_focal.generation import Sampling
from lightning_focal.modules import GRPOModule, Update
from lightning_focal.rewards import FocalReward, StaticReward, TokenChoiceScores

ARMS = {
    "static, uniform": lambda: StaticReward(weights="uniform", source=TokenChoiceScores()),
    "static, prior": lambda: StaticReward(weights="prior", source=TokenChoiceScores()),
    **{
        f"focal, gamma {gamma:g}, tau {tau:g}": (
            lambda gamma=gamma, tau=tau: FocalReward(gamma=gamma, temperature=tau, weights="uniform", source=TokenChoiceScores())
        )
        for gamma, tau in ((0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (5.0, 1.0), (1.0, 0.1), (3.0, 0.1))
    },
    "focal, gamma 3, tau 1, running": lambda: FocalReward(
        gamma=3.0, weights="uniform", scope="running", source=TokenChoiceScores()
    ),
}
MEASURES = {"worst": "val/balance/worst", "mean": "val/balance/mean", "prior": "val/reward/prior"}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


def one_run(arm: str, seed: int, epochs: int) -> dict[str, float]:
    seed_everything(seed, verbose=False)
    module = GRPOModule(
        policy=f"random:tiny-llama?hidden=64&layers=2&seed={seed}",
        group_size=8,
        val_group_size=32,
        sampling=Sampling(max_new_tokens=6),
        update=Update(micro_batch_size=64),
        optimizer=adamw,
        seed=seed,
    )
    held_out = HeldOut()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            check_val_every_n_epoch=epochs + 1,
            callbacks=[ARMS[arm](), held_out],
        )
        trainer.fit(module, datamodule=RandomPrompts(train=64, val=16, batch_size=8, seed=seed))
    before, after = held_out.history[0]["measures"], held_out.history[-1]["measures"]
    result = {f"{name}_before": before[key] for name, key in MEASURES.items()}
    result |= {name: after[key] for name, key in MEASURES.items()}
    return result | {key.split("/")[2]: value for key, value in after.items() if key.endswith("/score")}


def interval(values: list[float]) -> list[float]:
    return list(bootstrap_interval(torch.tensor(values, dtype=torch.float64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--merge", type=Path, nargs="+", help="stored files of other seeds; with --seeds 0 nothing is run")
    parser.add_argument("--epochs", type=int, default=15, help="of 8 steps each")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    merged = [json.loads(path.read_text()) for path in arguments.merge or []]
    for content in merged:
        for arm in ARMS:
            runs[arm] += content["runs"][arm]
    if merged and not arguments.seeds:
        store(arguments, runs, len(runs["static, uniform"]))
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for arm in ARMS:
            began = time.monotonic()
            runs[arm].append(one_run(arm, seed, arguments.epochs))
            last = runs[arm][-1]
            print(
                f"seed {seed} {arm}: worst {last['worst']:.3f} mean {last['mean']:.3f} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
        store(arguments, runs, len(runs[arm]))


def store(arguments: argparse.Namespace, runs: dict[str, list[dict[str, float]]], seeds: int) -> None:
    arms = {}
    for arm, results in runs.items():
        arms[arm] = {name: interval([r[name] for r in results]) for name in results[0]}
        for baseline in ("static, uniform", "static, prior"):
            for name in MEASURES:
                paired = [r[name] - b[name] for r, b in zip(results, runs[baseline], strict=True)]
                arms[arm][f"{name} minus {baseline}"] = interval(paired)
    parts = [json.loads(path.read_text())["provenance"] for path in arguments.merge or []]
    content = {
        "provenance": provenance() | {"merged_from": parts},
        "seeds": seeds,
        "steps": 8 * arguments.epochs,
        "mean_low_high": arms,
        "runs": runs,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    head = "| strategy | worst | mean | prior-weighted | worst minus static, uniform | worst minus static, prior | mean minus static, uniform |"
    lines = [head, "|" + " --- |" * 7]
    columns = ("worst", "mean", "prior", "worst minus static, uniform", "worst minus static, prior", "mean minus static, uniform")
    for arm, values in arms.items():
        cells = [f"{values[c][0]:.3f} [{values[c][1]:.3f}, {values[c][2]:.3f}]" for c in columns]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    arguments.json.with_suffix(".md").write_text("\n".join(lines) + "\n")
    if arguments.figure:
        draw(arms, seeds, arguments.figure)


def draw(arms: dict[str, dict[str, list[float]]], seeds: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in next(iter(arms.values())) if name.startswith("r") and name[1:].isdigit()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for place, values in enumerate(arms.values()):
        for measure, colour, shift in (("mean", "C0", -0.1), ("worst", "C3", 0.1)):
            mean, low, high = values[measure]
            error = [[mean - low], [high - mean]]
            left.errorbar(place + shift, mean, yerr=error, fmt="o", color=colour, capsize=3, label=measure if not place else None)
    left.set_xticks(range(len(arms)), list(arms), rotation=40, ha="right", fontsize=8)
    left.set_ylabel("held-out score after training")
    left.legend()
    for arm in ("static, uniform", "static, prior", "focal, gamma 1, tau 1", "focal, gamma 3, tau 1"):
        right.plot(names, [arms[arm][name][0] for name in names], marker="o", label=arm)
    right.set_xlabel("criterion, named by its starting rate")
    right.set_ylabel("mean score after training")
    right.legend(fontsize=8)
    figure.suptitle(f"nine criteria, {seeds} seeds, 95 % bootstrap intervals")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
