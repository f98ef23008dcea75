"""Draw docs/_static/weights.svg: focal weights against saturation, gamma 0 to 5.

    python docs/draw_weights.py [FILE]

The file may also end in .png or .pdf. The numbers come from lightning_focal.functional.focal_weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from lightning_focal.functional import focal_weights

SATURATION = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
GAMMAS = (0, 1, 2, 3, 4, 5)
INK, GREY = "#1f2937", "#6b7280"


def relative_weights(gamma: float) -> Tensor:
    """Weights of nine criteria with equal base weights, as multiples of the base weight."""
    base = torch.full((1, len(SATURATION)), 1 / len(SATURATION), dtype=torch.float64)
    return (focal_weights(SATURATION[None], base, gamma=gamma) / base)[0]


def draw(path: Path) -> None:
    """Write the picture."""
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "lightning_focal"})
    figure, axes = plt.subplots(figsize=(7.6, 4.4), facecolor="white")
    shades = plt.get_cmap("viridis_r")
    for gamma in GAMMAS:
        weights = relative_weights(gamma)
        colour = GREY if gamma == 0 else shades(0.15 + 0.8 * gamma / max(GAMMAS))
        axes.plot(SATURATION, weights, color=colour, marker="o", markersize=4.5, linewidth=1.8, clip_on=False)
        place = {"xytext": (-9, 0), "textcoords": "offset points", "ha": "right", "va": "center", "color": colour}
        axes.annotate(f"γ = {gamma}", (0.1, float(weights[0])), **place)
    axes.annotate("static weights", (0.9, 1), xytext=(0, 7), textcoords="offset points", ha="right", color=GREY)
    axes.set_xlim(0.0, 0.92)
    axes.set_ylim(0, 4.5)
    axes.set_xticks([i / 10 for i in range(1, 10)])
    axes.set_xlabel("saturation of the criterion: how far it is met already", color=INK)
    axes.set_ylabel("weight, in base weights", color=INK)
    axes.set_title("Nine equally weighted criteria: weight moves to those with room", loc="left", color=INK, fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": "docs/draw_weights.py"} if path.suffix == ".svg" else None
    figure.savefig(path, bbox_inches="tight", dpi=120, metadata=metadata)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "_static" / "weights.svg")
