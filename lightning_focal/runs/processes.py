"""Processes of a run: signals that ask it to end, one that breaks, and those that torchrun starts again."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from datetime import timedelta
from types import FrameType
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["ENDED_BY_CTRL_C", "ENDED_BY_SIGTERM", "ProcessWatch", "Signals", "end_with_parent", "rejoin"]

_log = logging.getLogger(__name__)

ENDED_BY_SIGTERM = 128 + signal.SIGTERM
"""Exit status of a run that was asked to end and did: 143, what a shell reports of any such process."""

ENDED_BY_CTRL_C = 128 + signal.SIGINT
"""Exit status of a run that a person has stopped: 130."""

_LEFT_BEHIND = 1
"""Exit status of a process whose fellow is gone."""


class Signals:
    """Notes SIGTERM, and the signal by which SLURM announces a requeue, until the batch under way is done.

    Lightning acts on them in the middle of whatever is under way: a checkpoint of half an update, or a broadcast that meets another
    collective on the other processes. Its answer to SLURM's signal (a checkpoint, and ``scontrol requeue``) is kept and given later.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._before: dict[int, Any] = {}  # what answered each signal before

    def listen(self) -> None:
        """Take over SIGTERM and what else Lightning listens to, once it does; it puts back what was there when the Trainer is done."""
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) == self._note:
            return
        answers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        lightnings = [number for number, answer in answers.items() if type(answer).__module__.startswith("lightning.pytorch.")]
        self._noted, self._before = 0, {number: answers[number] for number in sorted({signal.SIGTERM, *lightnings})}
        for number in self._before:
            signal.signal(number, self._note)

    def let_go(self) -> None:
        """Have them end this process at once: something failed, and Lightning's handler would talk to processes that may be gone."""
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted != signal.SIGTERM:
            self._noted = number
        _log.warning("%s: the batch under way is finished and saved first", signal.Signals(number).name)

    def asked(self, trainer: Trainer) -> int:
        """Return the signal that any process of the run has met, 0 for none: a collective, called by every process behind a batch."""
        noted = self._noted
        for number in (signal.SIGTERM, *(number for number in self._before if number != signal.SIGTERM)):
            if trainer.strategy.reduce_boolean_decision(noted == number, all=False):
                return number
        return 0

    def answer(self, trainer: Trainer, number: int, done: int, advice: str) -> None:
        """Do what was asked for, now that everything is saved.

        Raises:
            SystemExit: with status 143, if the run is to end.
        """
        if number:
            self._noted = 0
        if number == signal.SIGTERM:
            if trainer.is_global_zero:
                _log.warning("ended by SIGTERM behind batch %d; %s", done, advice)
            raise SystemExit(ENDED_BY_SIGTERM if trainer.is_global_zero else 0)  # the first process speaks for all
        if number:
            self._before[number](number, None)


class ProcessWatch(Callback):
    """Looks after the processes that Lightning launches on a machine, and says which one broke.

    Where one is killed, or breaks, the first process says so and ends the others and itself. Otherwise they might wait in a
    collective until it times out, half an hour by default. What a launcher of its own started (``torchrun``, SLURM) is that
    launcher's to look after.

    Args:
        seconds: between two looks; more than 0.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        if not seconds > 0:
            raise ValueError(f"`ProcessWatch.seconds` must be > 0, got {seconds}")
        self.seconds = seconds
        self._over = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start to look, in a thread of its own."""
        processes = list(getattr(trainer.strategy.launcher, "procs", []))  # those this process has launched
        self._over.clear()
        if processes and all(hasattr(process, "poll") for process in processes):
            threading.Thread(target=self._look, args=(processes,), daemon=True, name="process-watch").start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop looking: processes end when they are done."""
        self._over.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the word to who broke: the failed collective of another process is not what a person wants to read."""
        if isinstance(exception, RuntimeError) and trainer.world_size > 1:
            self._over.wait(2 * self.seconds)  # for one of the threads, which ends this process
        self._over.set()

    def _look(self, processes: list[Any]) -> None:
        while not self._over.wait(self.seconds):
            for rank, process in enumerate(processes, start=1):
                status = process.poll()
                if status:  # neither running nor done
                    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                    words = "the others cannot go on without it and end, too. --ckpt_path=last goes on with the run"
                    _log.error("process %d of this run %s; %s", rank, how, words)
                    for other in processes:
                        other.kill()  # nothing happens to one that is gone
                    os._exit(_LEFT_BEHIND)


def end_with_parent(seconds: float = 2.0) -> None:
    """Have this process, which another one has launched, end where that one is gone: killed, it can tell nobody."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        _log.error("the first process of this run is gone: process %s ends, too", os.environ.get("LOCAL_RANK", "?"))
        os._exit(_LEFT_BEHIND)

    threading.Thread(target=look, daemon=True, name="end-with-parent").start()


_STORES: list[Any] = []


def rejoin() -> None:
    """Have processes that torchrun has started again meet at an address of their own; nothing at a first start, or without torchrun.

    torchrun keeps the store in which processes leave their addresses for one another, and PyTorch looks into it under the same
    names after a restart: a process that is quicker than its fellows finds the addresses of processes that are gone, and fails.
    So the first process opens a new store, and leaves its port in the old one under the number of the start.
    """
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    if not again or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    host, key = os.environ["MASTER_ADDR"], f"lightning_focal/start-{again}"
    wait = timedelta(minutes=30)
    old = dist.TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False, timeout=wait)  # type: ignore[attr-defined]
    if os.environ["RANK"] == "0":  # torchrun's address is that of this machine
        _STORES.append(dist.TCPStore(host, 0, is_master=True, wait_for_workers=False))  # type: ignore[attr-defined]
        old.set(key, str(_STORES[-1].port))
    os.environ["MASTER_PORT"] = old.get(key).decode()  # waits for the first process
