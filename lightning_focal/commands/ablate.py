"""A grid of runs: one configuration, changed in one place an arm, over seeds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_focal.files import write_json, write_text
from lightning_focal.studies.plots import ablation_figure
from lightning_focal.studies.tables import markdown_table, over_seeds

__all__ = ["MEASURES", "Ablation", "read_ablation", "run_ablation"]

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
    """What an ablation file says.

    Args:
        name: heading of table and figure.
        config: the configuration that every arm changes.
        arms: label -> arguments, as on the command line without the dashes.
        seeds: each arm is run with every seed.
        seed_keys: arguments that take the seed; a string value with ``{seed}`` is filled in.
    """

    name: str
    config: Path
    arms: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    seed_keys: Mapping[str, Any] = field(default_factory=lambda: {"seed_everything": "{seed}"})


def read_ablation(path: str | Path) -> Ablation:
    """Read an ablation file.

    Raises:
        FileNotFoundError: when it, or the configuration it names, is not there.
        ValueError: on a missing or unknown key, no arm, or no seed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`config`: no ablation file at {path.absolute()}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {"name", "config", "arms", "seeds", "seed_keys"}
    if not isinstance(content, dict) or not {"config", "arms", "seeds"} <= set(content) or set(content) - known:
        raise ValueError(
            f"{path}: an ablation has the keys config, arms, seeds and may have name, seed_keys; got {content!r:.200}"
        )
    if not content["arms"] or not all(isinstance(arm, dict) for arm in content["arms"].values()):
        raise ValueError(f"{path}: `arms` must map a label to arguments, got {content['arms']!r:.200}")
    if not content["seeds"] or not all(isinstance(seed, int) for seed in content["seeds"]):
        raise ValueError(f"{path}: `seeds` must be a list of integers, got {content['seeds']!r}")
    config = path.parent / content["config"]
    if not config.is_file():
        raise FileNotFoundError(f"{path}: `config` names {config}, which is not there")
    extra = {"seed_keys": content["seed_keys"]} if "seed_keys" in content else {}
    arms = {str(label): arm for label, arm in content["arms"].items()}
    return Ablation(content.get("name", path.stem), config, arms, list(content["seeds"]), **extra)


def run_ablation(
    ablation: Ablation, out: str | Path, workers: int = 1, overrides: Sequence[str] = (), say: Any = print
) -> dict[str, Any]:
    """Run every arm with every seed, one process each, and write ``table.md``, ``results.json`` and ``figure.png``.

    A run that is already finished under ``out`` is not run again, so an interrupted grid goes on where it was.

    Args:
        ablation: the grid.
        out: folder.
        workers: runs at a time, each with an equal share of the cores.
        overrides: further arguments for every run, as on the command line.
        say: called with a line a finished run.

    Raises:
        RuntimeError: when a run fails; the message names its log.
    """
    out = Path(out)
    cells = [(label, seed) for label in ablation.arms for seed in ablation.seeds]
    done: dict[tuple[str, int], dict[str, float]] = {}

    def one(cell: tuple[str, int]) -> None:
        label, seed = cell
        folder = out / f"{_slug(label)}-seed{seed}"
        began = time.monotonic()
        if not (folder / "held_out.json").exists() or not (folder / ".finished").exists():
            _run(ablation, label, seed, folder, workers, overrides)
        done[cell] = _measures(folder)
        say(
            f"{len(done)}/{len(cells)} {label}, seed {seed}: worst {done[cell]['worst criterion']:.3f} ({time.monotonic() - began:.0f} s)"
        )

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(one, cell) for cell in cells]:
            future.result()
    arms = {
        label: {name: over_seeds([done[label, seed][name] for seed in ablation.seeds]) for name in MEASURES}
        for label in ablation.arms
    }
    result = {
        "name": ablation.name,
        "config": str(ablation.config),
        "overrides": list(overrides),
        "seeds": list(ablation.seeds),
        "arms": {label: dict(arguments) for label, arguments in ablation.arms.items()},
        "mean_low_high": arms,
        "runs": [{"arm": label, "seed": seed, **values} for (label, seed), values in sorted(done.items())],
    }
    write_json(out / "results.json", result)
    rows = [[label, *(f"{m:.3f} [{lo:.3f}, {hi:.3f}]" for m, lo, hi in values.values())] for label, values in arms.items()]
    write_text(out / "table.md", markdown_table([ablation.name, *MEASURES], rows))
    ablation_figure(f"{ablation.name} ({len(ablation.seeds)} seeds, 95 % bootstrap intervals)", arms, out / "figure.png")
    return result


def _run(ablation: Ablation, label: str, seed: int, folder: Path, workers: int, overrides: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished run of this cell
    folder.parent.mkdir(parents=True, exist_ok=True)
    arguments = {key: _seeded(value, seed) for key, value in ablation.seed_keys.items()} | dict(ablation.arms[label])
    command = [sys.executable, "-m", "lightning_focal", "fit", "--config", str(ablation.config), "--run_dir", str(folder)]
    command += [f"--{key}={_spell(value)}" for key, value in arguments.items()]
    command += list(overrides)
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    log = folder.with_suffix(".log")
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    environment.pop("LIGHTNING_FOCAL_RUN_FOLDER", None)
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
        raise RuntimeError(f"{label}, seed {seed} failed with exit code {code}; its log is {log}, the end of it:\n{tail}")
    (folder / ".finished").touch()


def _measures(folder: Path) -> dict[str, float]:
    last = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))["evaluations"][-1]["measures"]
    return {label: float(last[name]) for label, name in MEASURES.items()}


def _seeded(value: Any, seed: int) -> Any:
    return value.replace("{seed}", str(seed)) if isinstance(value, str) else value


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in label)


def ablate_command(args: list[str]) -> None:
    """``lightning_focal ablate``: run a grid and write one table and one figure."""
    from jsonargparse import ArgumentParser

    from lightning_focal.parsing import HelpFormatter

    made = ArgumentParser(
        formatter_class=HelpFormatter,
        prog="lightning_focal ablate",
        description="Run a configuration over a grid and seeds; write one table and one figure. "
        "Arguments behind a -- go to every run.",
    )
    made.add_argument("--config", type=str, required=True, help="Ablation file, see configs/ablations.")
    made.add_argument("--out", type=str, default=None, help="Folder; runs/ablations/<name of the file> by default.")
    made.add_argument("--workers", type=int, default=1, help="Runs at a time.")
    made.add_argument("--seeds", type=list[int] | None, default=None, help="Seeds in place of the file's, e.g. '[0, 1]'.")
    cut = args.index("--") if "--" in args else len(args)
    config, rest = made.parse_args(args[:cut]), args[cut + 1 :]
    ablation = read_ablation(config.config)
    if config.seeds:
        ablation = Ablation(ablation.name, ablation.config, ablation.arms, config.seeds, ablation.seed_keys)
    out = Path(config.out or Path("runs/ablations") / Path(config.config).stem)
    say = _printer()
    run_ablation(ablation, out, config.workers, rest, say)
    say((out / "table.md").read_text(encoding="utf-8"))
    say(f"written to {out}: table.md, results.json, figure.png, one run folder a cell")


def _printer() -> Any:
    from lightning_focal.terminal import make_console

    console = make_console(soft_wrap=True)
    return lambda line: console.print(line, markup=False)
