"""``lightning_focal ablate``: a grid of runs, one configuration changed in one place an arm, over seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_focal.files import write_figure, write_json, write_text
from lightning_focal.functional import bootstrap_interval
from lightning_focal.parsing import CommandParser
from lightning_focal.report.figures import Point, figure_text, new_figure
from lightning_focal.report.tables import markdown_table
from lightning_focal.terminal import Cells, make_console, shortened

__all__ = ["MEASURES", "Ablation", "ablate_command", "over_seeds", "parser", "read_ablation", "run_ablation"]

MEASURES = {
    "worst criterion": "val/balance/worst",
    "mean over criteria": "val/balance/mean",
    "static score (prior)": "val/reward/prior",
    "strict completion": "val/balance/strict_completion",
    "weight on saturated": "val/balance/saturated_weight",
}
"""Measures of an ablation's table and figure, and the names they are logged under; all of the held-out prompts after training."""


@dataclass(frozen=True)
class Ablation:
    """What an ablation file says: arms by label, each with arguments as on the command line without the dashes, run with every seed.

    A string value of ``seed_keys`` with ``{seed}`` in it is filled in.
    """

    name: str
    config: Path
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    seed_keys: Mapping[str, Any] = field(default_factory=lambda: {"seed_everything": "{seed}"})


def read_ablation(path: str | Path) -> Ablation:
    """Read an ablation file: ``ValueError`` on a missing or unknown key, no arm, or no seed; ``FileNotFoundError`` where one is missing."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`config`: no ablation file at {path.absolute()}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {"name", "config", "arms", "seeds", "seed_keys"}
    if not isinstance(content, dict) or not {"config", "arms", "seeds"} <= set(content) <= known:
        asked = "has the keys config, arms, seeds and may have name, seed_keys"
        raise ValueError(f"{path}: an ablation {asked}; got {content!r:.200}")
    if not content["arms"] or not all(isinstance(arm, dict) for arm in content["arms"].values()):
        raise ValueError(f"{path}: `arms` must map a label to arguments, got {content['arms']!r:.200}")
    if not content["seeds"] or not all(isinstance(seed, int) for seed in content["seeds"]):
        raise ValueError(f"{path}: `seeds` must be a list of integers, got {content['seeds']!r}")
    config = path.parent / content["config"]
    if not config.is_file():
        raise FileNotFoundError(f"{path}: `config` names {config}, which is not there")
    arms = {str(label): arm for label, arm in content["arms"].items()}
    return Ablation(**{"name": path.stem, **content, "config": config, "arms": arms})


def run_ablation(
    ablation: Ablation, out: str | Path, workers: int = 1, overrides: Sequence[str] = (), say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Run every arm with every seed, one process each, and write ``table.md``, ``results.json`` and ``figure.png``.

    A run that is already finished under ``out`` is not run again, so an interrupted grid goes on where it was. ``workers`` run at a
    time, each with an equal share of the cores, with ``overrides`` as on the command line; ``say`` is given a line a finished run.
    ``RuntimeError`` when a run fails; the message names its log.
    """
    out = Path(out)
    cells = [(label, seed) for label in ablation.arms for seed in ablation.seeds]
    done: dict[tuple[str, int], dict[str, float]] = {}
    folders = _folders(list(ablation.arms))

    def run(cell: tuple[str, int]) -> None:
        label, seed = cell
        folder = out / f"{folders[label]}-seed{seed}"
        began = time.monotonic()
        if not (folder / "held_out.json").exists() or not (folder / ".finished").exists():
            _run(ablation, label, seed, folder, workers, overrides)
        last = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))["evaluations"][-1]["measures"]
        done[cell] = {measure: float(last[name]) for measure, name in MEASURES.items()}
        worst, took = done[cell]["worst criterion"], time.monotonic() - began
        say(f"{len(done)}/{len(cells)} {shortened(label)}, seed {seed}: worst {worst:.3f} ({took:.0f} s)")

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(run, cell) for cell in cells]:
            future.result()
    arms = {
        label: {measure: over_seeds([done[label, seed][measure] for seed in ablation.seeds]) for measure in MEASURES}
        for label in ablation.arms
    }
    intervals = {label: {name: dataclasses.astuple(point) for name, point in points.items()} for label, points in arms.items()}
    result = {
        "name": ablation.name,
        "config": str(ablation.config),
        "overrides": overrides,
        "seeds": ablation.seeds,
        "arms": ablation.arms,
        "mean_low_high": intervals,
        "runs": [{"arm": label, "seed": seed, **values} for (label, seed), values in sorted(done.items())],
    }
    write_json(out / "results.json", result)
    rows = [[label, *(f"{point:.3f}" for point in points.values())] for label, points in arms.items()]
    write_text(out / "table.md", markdown_table([ablation.name, *MEASURES], rows))
    _draw(f"{ablation.name} ({len(ablation.seeds)} seeds, 95 % bootstrap intervals)", arms, out / "figure.png")
    return result


def _folders(labels: Sequence[str]) -> dict[str, str]:
    """Name a folder after each label; where the names of two clash, or one is long, a hash of the label ends it.

    >>> _folders(["gamma 3", "a[b]", "a(b)"])
    {'gamma 3': 'gamma_3', 'a[b]': 'a_b_-26974bc5', 'a(b)': 'a_b_-cce46ea1'}
    """
    plain = {label: "".join(c if c.isalnum() or c in ".-" else "_" for c in label) for label in labels}
    used = Counter(name.casefold() for name in plain.values())
    hashed = {label: hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:8] for label in labels}
    return {
        label: f"{name[:40]}-{hashed[label]}" if used[name.casefold()] > 1 or len(name.encode()) > 120 else name
        for label, name in plain.items()
    }


def over_seeds(values: Sequence[float]) -> Point:
    """Mean and 95 % bootstrap interval over seeds; with fewer than three seeds the interval is their range."""
    if len(values) < 3:
        return Point(sum(values) / len(values), min(values), max(values))
    return Point(*bootstrap_interval(torch.tensor(values, dtype=torch.float64)))


def _run(ablation: Ablation, label: str, seed: int, folder: Path, workers: int, overrides: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished run of this cell
    folder.parent.mkdir(parents=True, exist_ok=True)
    seeded = {k: v.replace("{seed}", str(seed)) if isinstance(v, str) else v for k, v in ablation.seed_keys.items()}
    command = [sys.executable, "-m", "lightning_focal", "fit", "--config", str(ablation.config), "--run_dir", str(folder)]
    for key, value in {**seeded, **ablation.arms[label]}.items():
        command.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    environment.pop("LIGHTNING_FOCAL_RUN_FOLDER", None)
    log = folder.with_suffix(".log")
    with open(log, "w", encoding="utf-8") as file:
        made = subprocess.run([*command, *overrides], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if made.returncode:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
        failed = f"{label}, seed {seed} failed with exit code {made.returncode}"
        raise RuntimeError(f"{failed}; its log is {log}, the end of it:\n{tail}")
    (folder / ".finished").touch()


def _draw(title: str, arms: Mapping[str, Mapping[str, Point]], path: Path) -> None:
    """One panel a measure: a point and an interval an arm."""
    figure = new_figure(3.4 * len(MEASURES), 3.6)
    for axis, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for place, points in enumerate(arms.values()):
            point = points[measure]
            ends = [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]
            axis.errorbar(place, point.value, yerr=ends, fmt="o", capsize=3, color="C0")
        axis.set_xticks(range(len(arms)), list(map(figure_text, arms)), rotation=45, ha="right")
        axis.set_title(measure)
    figure.suptitle(figure_text(title, 120))
    write_figure(path, figure)


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal ablate",
        description="Run a configuration over a grid and seeds; write one table and one figure. "
        "Arguments behind a -- go to every run.",
    )
    made.add_argument("--config", type=str, required=True, help="Ablation file, see configs/ablations.")
    made.add_argument("--out", type=str, default=None, help="Folder; runs/ablations/<name of the file> by default.")
    made.add_argument("--workers", type=int, default=1, help="Runs at a time.")
    made.add_argument("--seeds", type=list[int] | None, default=None, help="Seeds in place of the file's, e.g. '[0, 1]'.")
    return made


def ablate_command(args: list[str]) -> None:
    """Run the command; see :func:`parser` for its arguments."""
    cut = args.index("--") if "--" in args else len(args)
    config = parser().parse_args(args[:cut])
    ablation = read_ablation(config.config)
    if config.seeds:
        ablation = dataclasses.replace(ablation, seeds=config.seeds)
    out = Path(config.out or Path("runs/ablations") / Path(config.config).stem)
    console = make_console(soft_wrap=True)
    result = run_ablation(ablation, out, config.workers, args[cut + 1 :], console.print)
    table = Cells(ablation.name, *MEASURES)
    for label, points in result["mean_low_high"].items():
        table.add_row(label, *(f"{Point(*points[measure]):.3f}" for measure in MEASURES))
    console.print(table)
    console.print(f"written to {out}: table.md, results.json, figure.png, one run folder a cell")
