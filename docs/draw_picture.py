"""Draw docs/_static/picture-light.svg and -dark.svg: where the weight goes in a run, static beside focal.

    python docs/draw_picture.py                 # from benchmarks/results/picture.json
    python docs/draw_picture.py --run           # train both runs anew (two minutes on one core) and store that file first

Both runs are of configs/controlled.yaml with seed 0; they differ in gamma alone. A band is a criterion, its height the weight, its
colour how far the criterion is met (saturation): grey is met, nothing is left to learn from it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "benchmarks" / "results" / "picture.json"
STATIC = Path(__file__).parent / "_static"
ARMS = {"static": 0.0, "focal": 1.0}
TITLES = {"static": "Static weights", "focal": "Focal Reward"}
THEMES = {
    "light": {"ink": "#1f2937", "soft": "#6b7280", "gap": "#ffffff", "ramp": ["#d9480f", "#f59f00", "#ffe8a3", "#d5d9df"]},
    "dark": {"ink": "#e5e7eb", "soft": "#9ca3af", "gap": "#131416", "ramp": ["#ff6b35", "#f5a623", "#8a7440", "#3a3f47"]},
}
WINDOW = 8
"""Batches in a mean: one batch has eight prompts."""
MET = 0.9


def measure(folder: Path) -> dict[str, Any]:
    """What a run logged: saturation and weight of every criterion by batch, held-out scores before and after."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/reward/mean"]]
    names = [key.removeprefix("train/weight/") for key in rows[0] if key.startswith("train/weight/")]
    evaluations = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))["evaluations"]
    return {
        "criteria": names,
        "saturation": [[round(float(row[f"train/saturation/{name}"]), 4) for row in rows] for name in names],
        "weight": [[round(float(row[f"train/weight/{name}"]), 4) for row in rows] for name in names],
        "held_out": [round(evaluations[i]["measures"]["val/held_out/mean"], 4) for i in (0, -1)],
    }


def run() -> None:
    """Train both and store what they logged."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from provenance import provenance

    arms = {}
    with tempfile.TemporaryDirectory() as place:
        for name, gamma in ARMS.items():
            folder = Path(place) / name
            command = [sys.executable, "-m", "lightning_focal", "fit", "--config", "configs/controlled.yaml", "--quiet"]
            command += [f"--reward.gamma={gamma}", f"--run_dir={folder}", "--trainer.enable_checkpointing=false"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
            arms[name] = {"gamma": gamma, **measure(folder)}
    STORED.write_text(json.dumps({"provenance": provenance(), "runs": arms}, indent=1) + "\n", encoding="utf-8")


def smooth(rows: list[list[float]]) -> np.ndarray:
    """Means over `WINDOW` batches, `[C, batches / WINDOW]`."""
    values = np.array(rows)
    return values[:, : values.shape[1] // WINDOW * WINDOW].reshape(len(values), -1, WINDOW).mean(-1)


def draw(theme: str, stored: dict[str, Any], path: Path) -> None:
    """Write the picture for a light or a dark page; its own background is transparent."""
    look = THEMES[theme]
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "lightning_focal"})
    ramp = LinearSegmentedColormap.from_list("met", look["ramp"])
    figure, panels = plt.subplots(1, 2, figsize=(9.4, 3.9), sharey=True)
    figure.subplots_adjust(left=0.105, right=0.875, wspace=0.09, top=0.8, bottom=0.15)
    for axes, (name, one) in zip(panels, stored["runs"].items(), strict=True):
        order = np.argsort([-row[0] for row in smooth(one["saturation"])])  # the easy ones at the bottom
        saturation, weight = smooth(one["saturation"])[order], smooth(one["weight"])[order]
        weight = weight / weight.sum(0)
        edges = np.concatenate([np.zeros((1, weight.shape[1])), weight.cumsum(0)])
        at = (np.arange(weight.shape[1]) + 0.5) * WINDOW
        for band in range(len(weight)):
            shapes, levels = [], []
            for i in range(len(at) - 1):
                low, high = edges[band, i : i + 2], edges[band + 1, i : i + 2]
                shapes.append([(at[i], low[0]), (at[i + 1], low[1]), (at[i + 1], high[1]), (at[i], high[0])])
                levels.append(saturation[band, i : i + 2].mean())
            colours = ramp(np.array(levels))
            axes.add_collection(PolyCollection(shapes, facecolors=colours, edgecolors=colours, linewidths=0.4))
            axes.plot(at, edges[band + 1], color=look["gap"], linewidth=1.1)
        spent = float((weight * (saturation >= MET)).sum(0)[-1])
        axes.set_title(TITLES[name], loc="left", color=look["ink"], fontsize=13, fontweight="bold", pad=22)
        said = f"{spent:.0%} of the weight ends on criteria that are met"
        axes.text(0, 1.035, said, transform=axes.transAxes, color=look["soft"], fontsize=10.5)
        axes.set_xlim(at[0], at[-1])
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.set_xlabel("training step", color=look["ink"])
        axes.tick_params(colors=look["soft"], length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0].set_ylabel("weight of nine criteria", color=look["ink"])
    bar = figure.colorbar(plt.cm.ScalarMappable(cmap=ramp), cax=figure.add_axes((0.895, 0.15, 0.016, 0.65)))
    bar.set_ticks([0, 1], labels=["not met", "met"], color=look["soft"])
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": "docs/draw_picture.py"} if path.suffix == ".svg" else None
    figure.savefig(path, transparent=True, metadata=metadata, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true", help="train both runs first")
    parser.add_argument("--out", type=Path, default=STATIC, help="folder of the two pictures")
    parser.add_argument("--suffix", default=".svg")
    given = parser.parse_args()
    if given.run:
        run()
    for theme in THEMES:
        draw(theme, json.loads(STORED.read_text(encoding="utf-8")), given.out / f"picture-{theme}{given.suffix}")
