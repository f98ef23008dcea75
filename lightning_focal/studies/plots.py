"""Figures of studies, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_focal.files import write_figure

__all__ = ["ablation_figure", "replay_figure"]


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'lightning-focal[plots]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def replay_figure(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw flipped pairs against the strategy, and the weight of each criterion key over batches for the last strategy."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    labels = [result["label"] for result in results]
    for name, text in {
        "flipped_share": "flipped pairs",
        "kendall_distance": "Kendall distance",
        "new_best_share": "new best",
    }.items():
        left.plot(range(len(results)), [result[name] for result in results], marker="o", label=text)
    left.set_xticks(range(len(results)), labels, rotation=30, ha="right")
    left.set_ylabel("share, against static")
    left.set_ylim(0)
    left.legend()
    trajectory = results[-1]["trajectory"]
    for key in results[-1]["weight"]:
        points = [(entry["batch"], entry[key]) for entry in trajectory if key in entry]
        right.plot([p[0] for p in points], [p[1] for p in points], label=key)
    right.set_xlabel("rollout batch")
    right.set_ylabel(f"mean weight of a criterion ({labels[-1]})")
    right.legend(fontsize="small")
    write_figure(path, figure)
    plt.close(figure)


def ablation_figure(name: str, arms: Mapping[str, Mapping[str, tuple[float, float, float]]], path: Path) -> None:
    """Draw one panel a measure: a point and an interval an arm.

    Args:
        name: of the ablation.
        arms: label -> measure -> ``(mean, low, high)``.
        path: of the PNG.
    """
    plt = _pyplot()
    measures = list(next(iter(arms.values())))
    figure, axes = plt.subplots(1, len(measures), figsize=(3.4 * len(measures), 3.6), squeeze=False, layout="constrained")
    for axis, measure in zip(axes[0], measures, strict=True):
        for place, values in enumerate(arms.values()):
            mean, low, high = values[measure]
            axis.errorbar(place, mean, yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]], fmt="o", capsize=3, color="C0")
        axis.set_xticks(range(len(arms)), list(arms), rotation=45, ha="right")
        axis.set_title(measure)
    figure.suptitle(name)
    write_figure(path, figure)
    plt.close(figure)
