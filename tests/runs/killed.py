"""What a run folder holds at moments a kill could strike, and what two folders have in common."""

import csv
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import torch
from lightning.pytorch import Callback

from lightning_focal.runs import last_checkpoint


class Snapshots(Callback):
    """Copies the run folder at hooks, as a kill would leave it: ``{"on_train_batch_end": [1, 4]}`` at the second and fifth call."""

    def __init__(self, folder: str, moments: dict[str, list[int]]):
        self.folder, self.calls = Path(folder), {}
        for hook, numbers in moments.items():
            setattr(self, hook, self.taking(hook, numbers))

    def taking(self, hook, numbers):
        def take(trainer, *args, **kwargs):
            number = self.calls[hook] = self.calls.get(hook, -1) + 1
            if number in numbers and trainer.state.fn == "fit":
                shutil.copytree(trainer.log_dir, self.folder / f"{hook}-{number}", symlinks=True)

        return take


class Counting(Callback):
    """Somebody else's callback with a state: each batch and epoch is begun and ended once, however often the run is resumed."""

    def __init__(self):
        self.seen = dict.fromkeys(("batch_start", "batch_end", "epoch_start", "epoch_end"), 0)
        for name in self.seen:
            setattr(self, f"on_train_{name}", lambda *args, name=name: self.count(name))

    def count(self, name):
        self.seen[name] += 1

    def state_dict(self):
        return dict(self.seen)

    def load_state_dict(self, state_dict):
        self.seen |= state_dict


class Signalled(Callback):
    """Sends a process a signal in the middle of a training batch, or, with batch -1, before the first evaluation."""

    def __init__(self, number: int, batch: int, rank: int = 0):
        self.number, self.batch, self.rank = number, batch, rank

    def on_train_start(self, trainer, pl_module):
        if self.batch == -1 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.processed == self.batch and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


def table(folder):
    """metrics.csv without times, order of rows and columns included."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [i for i, name in enumerate(rows[0]) if "/time/" not in name]
    return [[row[i] for i in kept] for row in rows]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    names = [name for name in found.Tags()["scalars"] if "/time/" not in name]
    return {name: [(event.step, repr(event.value)) for event in found.Scalars(name)] for name in names}


def rollouts(folder):
    return {path.name: repr(pq.read_table(path).to_pylist()) for path in (folder / "rollouts").iterdir()}


def state(folder):
    """Every tensor and number of the newest checkpoint, by its path."""
    return leaves(torch.load(last_checkpoint(folder), weights_only=True))


def leaves(value):
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        return {f"/{k}{name}": leaf for k, v in value.items() for name, leaf in leaves(v).items()}
    return {"": (value.dtype, repr(value.tolist())) if isinstance(value, torch.Tensor) else repr(value)}


def same_run(one, other):
    """Say what differs between two run folders."""
    mine, theirs = state(one), state(other)
    apart = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
    apart += [read.__name__ for read in (table, events, rollouts) if read(one) != read(other)]
    if (one / "held_out.json").read_bytes() != (other / "held_out.json").read_bytes():
        apart.append("held_out.json")
    return apart
