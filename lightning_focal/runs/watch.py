"""Processes of one run live and die together: none waits for one that is gone."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["ProcessWatch", "end_with_parent"]

_log = logging.getLogger(__name__)

_LEFT_BEHIND = 1
"""Exit status of a process whose fellow is gone."""


class ProcessWatch(Callback):
    """Looks after the processes that Lightning launches on a machine, and says which one broke.

    Where one is killed, or breaks, the first process says so and ends the others and itself. Otherwise they might wait in a
    collective until it times out, half an hour by default. What a launcher of its own started (``torchrun``, SLURM) is that
    launcher's to look after.

    Args:
        seconds: between two looks.

    Raises:
        ValueError: for a time that is not positive.
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
                if process.poll():  # neither running nor done
                    self._end(processes, rank, process.returncode)

    def _end(self, processes: list[Any], rank: int, status: int) -> None:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        _log.error(
            "process %d of this run %s; the others cannot go on without it and end, too. --ckpt_path=last goes on with the run",
            rank,
            how,
        )
        for process in processes:
            if process.poll() is None:
                process.kill()
        os._exit(_LEFT_BEHIND)


def end_with_parent(seconds: float = 2.0) -> None:
    """Have this process, which another one has launched, end where that one is gone: killed, it can tell nobody.

    Args:
        seconds: between two looks.
    """
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        _log.error("the first process of this run is gone: process %s ends, too", os.environ.get("LOCAL_RANK", "?"))
        os._exit(_LEFT_BEHIND)

    threading.Thread(target=look, daemon=True, name="end-with-parent").start()
