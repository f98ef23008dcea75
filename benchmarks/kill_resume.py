"""A run that is killed again and again, beside one that is not: do they end with the same bits?

A small Co-rewarding-II run under Focal weights (policy, teacher, strategy with running levels, watch for collapse, schedule, best
checkpoint, validations) is run once undisturbed. Then the same command is started, killed with SIGKILL at a random moment, and typed again with
``--ckpt_path=last``, until it was killed ``--kills`` times; then it may end. Of three kills one waits for the moment a checkpoint is being
written, one in ten hits the start of the process, the others are uniform over the time the run trains. With ``--ranks 2`` one of the two
processes is killed, and the time until the other has ended is taken.

    python benchmarks/kill_resume.py --kills 20 --json benchmarks/results/kill_resume.json
    python benchmarks/kill_resume.py --kills 5 --ranks 2 --json benchmarks/results/kill_resume_2_ranks.json

``identical`` says that both ended alike: every tensor and number of the last checkpoint (policy, teacher, optimiser, scheduler, strategy,
random states, position in the data, held-out scores), metrics.csv byte for byte without the columns of wall-clock time (``*/time/*``), every
value in the TensorBoard events, every row of rollouts/*.parquet, held_out.json, and the names of the files in the folder,
but for ``set_aside/``, where a start keeps what it is about to write anew.
Left out is ``ModelCheckpoint.current_score``, which Lightning saves and never restores: nothing is computed from it.
``identical_after`` counts the kills after which the newest whole checkpoint was that of the undisturbed run at the same batch.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from provenance import provenance

HERE = Path(__file__).resolve().parent
START_UP = 600.0
"""Seconds a process may take until it trains, before the benchmark gives up."""


def config(batches: int) -> dict[str, Any]:
    epoch = -(-batches // 3)
    callbacks = [
        {"class_path": "lightning_focal.callbacks.EMATeacher", "init_args": {"start": 0.5, "end": 0.9}},
        {"class_path": "lightning_focal.callbacks.CollapseWatch", "init_args": {"window": 3}},
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {
                "monitor": "val/held_out/mean",
                "mode": "max",
                "filename": "best-step={step}",
                "auto_insert_metric_name": False,
                "enable_version_counter": False,
            },
        },
    ]
    weighting = {"class_path": "lightning_focal.rewards.FocalWeighting", "init_args": {"gamma": 1.0}}
    reward = {"equivalence": "string", "format": 0.5, "length": 0.5, "scope": "running", "weighting": weighting}
    return {
        "seed_everything": 0,
        "reward": {"class_path": "lightning_focal.rewards.CoRewardingII", "init_args": reward},
        "model": {
            "policy": "random:tiny-llama?hidden=32&layers=1&heads=2&kv_heads=1&std=0.1",
            "group_size": 4,
            "val_group_size": 2,
            "sampling": {"max_new_tokens": 4},
            "generator": {"class_path": "boxing.Boxing"},
            "reference": {"class_path": "lightning_focal.modules.TeacherReference"},
            "update": {"kl_coef": 0.01, "mini_batches": 2},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
            "lr_scheduler": {"class_path": "lightning_focal.modules.WarmupCosine", "init_args": {"warmup": 0.25}},
        },
        "data": {
            "class_path": "lightning_focal.data.ReasoningGymData",
            "init_args": {
                "task": "chain_sum",
                "task_args": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
                "train": 4 * epoch,
                "val": 6,
                "test": 1,
                "pairs": False,
                "batch_size": 4,
            },
        },
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "val_check_interval": 7,
            "check_val_every_n_epoch": None,
            "callbacks": callbacks,
        },
        "checkpoint": {"every_n_batches": 1},
    }


# -- one run -----------------------------------------------------------------------------------------------------------------


class Run:
    """A command line, started as often as need be."""

    def __init__(self, folder: Path, settings: Path, ranks: int, log: Path) -> None:
        self.folder, self.ranks, self.log = folder, ranks, log
        self.command = [sys.executable, "-m", "lightning_focal", "fit", f"--config={settings}", f"--run_dir={folder}"]
        self.command += [f"--trainer.devices={ranks}", *(["--trainer.strategy=ddp"] if ranks > 1 else [])]
        path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            log.write(f"\n== {' '.join(more) or 'first'} ==\n".encode())
            log.flush()
            return subprocess.Popen([*self.command, *more], stdout=log, stderr=log, env=self.environment, cwd=HERE.parent)

    def finish(self, *more: str) -> None:
        if self.start(*more).wait() != 0:
            raise RuntimeError(f"the run failed:\n{self.log.read_text(errors='replace')[-4000:]}")

    def batches(self) -> int:
        """Rows in metrics.csv: batches trained so far."""
        path = self.folder / "metrics.csv"
        return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        try:
            return any(".saving-" in entry.name for entry in os.scandir(self.folder / "checkpoints"))
        except FileNotFoundError:
            return False


def wait(process: subprocess.Popen[bytes], condition: Any, limit: float, pause: float = 0.002) -> bool:
    until = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < until:
        if condition():
            return True
        time.sleep(pause)
    return False


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found


def rank_of(pid: int) -> int:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(entry[11:]) for entry in environment if entry.startswith(b"LOCAL_RANK=")), 0)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(run: Run, process: subprocess.Popen[bytes], dice: random.Random) -> tuple[str, float]:
    """Kill the process, or one of two; return which, and the seconds until nothing of the run was left."""
    ranks = {0: process.pid, **{rank_of(pid): pid for pid in children(process.pid) if run.ranks > 1}}
    rank = dice.choice(sorted(ranks))
    began = time.monotonic()
    os.kill(ranks[rank], signal.SIGKILL)
    if rank == 0:
        process.wait()
    while any(alive(pid) for pid in ranks.values()):
        process.poll()
        time.sleep(0.01)
        if time.monotonic() - began > 300:
            for pid in ranks.values():
                os.kill(pid, signal.SIGKILL)
    process.wait()
    return f"rank {rank}", time.monotonic() - began


# -- what is compared --------------------------------------------------------------------------------------------------------


def flat(value: Any, folder: Path, name: str = "") -> dict[str, str]:
    """Every leaf of a checkpoint by its path, tensors by their bytes; paths into the run folder are the same for every run."""
    if isinstance(value, dict):
        leaves = {}
        for key, entry in value.items():
            leaves |= flat(entry, folder, f"{name}/{str(key).replace(str(folder), 'RUN')}")
        return leaves
    if isinstance(value, (list, tuple)):
        return {k: v for i, entry in enumerate(value) for k, v in flat(entry, folder, f"{name}/{i}").items()}
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return {name: f"{value.dtype} {list(value.shape)} {hashlib.sha256(raw).hexdigest()}"}
    return {name: repr(value).replace(str(folder), "RUN")}


def checkpoint(path: Path, folder: Path) -> dict[str, str]:
    leaves = flat(torch.load(path, weights_only=True), folder)
    return {name: leaf for name, leaf in leaves.items() if not name.endswith("/current_score")}


def table(path: Path) -> bytes:
    """metrics.csv without the columns of wall-clock time."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [i for i, name in enumerate(rows[0]) if "/time/" not in name]
    return "\r\n".join(",".join(row[i] for i in kept) for row in rows).encode()


def events(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    names = [name for name in found.Tags()["scalars"] if "/time/" not in name]
    return {name: [(event.step, repr(event.value)) for event in found.Scalars(name)] for name in sorted(names)}


def rollouts(folder: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    return {path.name: repr(pq.read_table(path).to_pylist()) for path in sorted((folder / "rollouts").glob("*.parquet"))}


def names(folder: Path) -> list[str]:
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if "tfevents" not in path.name]
    return sorted(name for name in found if not re.search(r"checkpoints/step=|^set_aside", name))


def differences(run: Path, other: Path) -> dict[str, list[str]]:
    """What is not the same in two run folders."""
    mine, theirs = checkpoint(run / "checkpoints/last.ckpt", run), checkpoint(other / "checkpoints/last.ckpt", other)
    apart = {
        "checkpoint": sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)),
        "metrics.csv": [] if table(run / "metrics.csv") == table(other / "metrics.csv") else ["metrics.csv"],
        "held_out.json": []
        if (run / "held_out.json").read_bytes() == (other / "held_out.json").read_bytes()
        else ["held_out.json"],
        "names": sorted(set(names(run)) ^ set(names(other))),
    }
    for what, read in (("events", events), ("rollouts", rollouts)):
        here, there = read(run), read(other)
        apart[what] = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    return apart


# -- the benchmark -----------------------------------------------------------------------------------------------------------


def measure(top: Path, kills: int, ranks: int, batches: int, seed: int, made: Any = config) -> dict[str, Any]:
    """Kill and compare; ``made`` makes the configuration of a run of so many batches."""
    settings, dice = top / "config.yaml", random.Random(seed)
    settings.write_text(yaml.safe_dump(made(batches)), encoding="utf-8")
    whole = Run(top / "whole", settings, ranks, top / "whole.log")
    process, began = whole.start(f"--checkpoint.keep={10 * batches}"), time.monotonic()
    wait(process, lambda: whole.batches() > 0, START_UP, pause=0.05)
    start_up, began = time.monotonic() - began, time.monotonic()
    if process.wait() != 0:
        raise RuntimeError(whole.log.read_text(errors="replace")[-4000:])
    training, batches = time.monotonic() - began, whole.batches()
    print(f"undisturbed: {start_up:.1f} s to the first batch, then {training:.1f} s for {batches}", flush=True)
    run = Run(top / "killed", settings, ranks, top / "killed.log")
    moments, longest, half, same_after = {"start": 0, "training": 0, "writing": 0}, 0.0, 0, 0
    more: list[str] = []
    for number in range(kills):
        behind = run.batches()
        process = run.start(*more)
        kind = "start" if number % 10 == 7 else "writing" if number % 3 == 2 else "training"
        if kind == "start":
            wait(process, lambda: False, dice.uniform(0, start_up))
        else:
            written = run.log.stat().st_size
            wait(process, lambda b=behind, w=written: _trains(run, b, w), START_UP)
            share = 2 * (batches - 2 - behind) // (kills - number)
            until = min(batches - 5, behind + dice.randint(0, max(0, share)))
            wait(process, lambda u=until: run.batches() >= u, START_UP)
            wait(process, lambda: False, dice.uniform(0, 1.5 * training / batches), pause=0.001)
            if kind == "writing":
                wait(process, run.writing, START_UP, pause=0.0)
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before kill {number + 1}: more batches are needed\n{run.log.read_text()[-3000:]}")
        who, seconds = kill(run, process, dice)
        moments[kind], longest = moments[kind] + 1, max(longest, seconds)
        caught = run.writing()
        half += caught
        same_after += _as_undisturbed(run.folder, whole.folder)
        print(
            f"kill {number + 1} ({kind}, {who}): after {run.batches()} batches, {'half a checkpoint, ' * caught}gone in {seconds:.1f} s",
            flush=True,
        )
        more = ["--ckpt_path=last"]
    run.finish(*more)
    apart = differences(run.folder, whole.folder)
    return {
        "kills": kills,
        "identical": not any(apart.values()) and same_after == kills,
        "identical_after": same_after,
        "ranks": ranks,
        "batches": batches,
        "moments": moments,
        "half_written_checkpoints": half,
        "longest_wait_s": round(longest, 2),
        "apart": {what: found[:20] for what, found in apart.items()},
        "columns_left_out": "*/time/*",
        "seed": seed,
    }


def _trains(run: Run, behind: int, written: int) -> bool:
    """Whether the process that was started last is past its start: it has logged a batch, or dropped one that was logged."""
    if run.batches() != behind:
        return True
    return b" reward " in run.log.read_bytes()[written:]


def _as_undisturbed(folder: Path, whole: Path) -> bool:
    """Whether the newest whole checkpoint is that of the undisturbed run at the same batch."""
    from lightning_focal.runs import last_checkpoint

    found = last_checkpoint(folder, quiet=True)
    if found is None:
        return not list((folder / "checkpoints").glob("[!.]*.ckpt"))
    mine, theirs = checkpoint(found, folder.resolve()), checkpoint(whole / "checkpoints" / found.name, whole.resolve())
    return mine == theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1, choices=(1, 2))
    parser.add_argument("--batches", type=int, help="in the run; four for every kill by default, at least 24")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", type=Path, help="a new folder for both runs; a temporary one by default")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(options.keep or temporary).resolve()
        top.mkdir(parents=True, exist_ok=True)
        result = measure(top, options.kills, options.ranks, options.batches or max(24, 4 * options.kills), options.seed)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**result, "provenance": provenance()}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    sys.exit(not result["identical"])


if __name__ == "__main__":
    main()
