"""Signals that ask a run to end, answered between batches instead of in the middle of one."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["ENDED_BY_CTRL_C", "ENDED_BY_SIGTERM", "Signals"]

_log = logging.getLogger(__name__)

ENDED_BY_SIGTERM = 128 + signal.SIGTERM
"""Exit status of a run that was asked to end and did: 143, what a shell reports of any such process."""


ENDED_BY_CTRL_C = 128 + signal.SIGINT
"""Exit status of a run that a person has stopped: 130."""


class Signals:
    """Notes SIGTERM, and the signal by which SLURM announces a requeue, until the batch under way is done.

    Lightning acts on them in the middle of whatever is under way: a checkpoint of half an update, or a broadcast that meets another
    collective on the other processes. Its own answer to SLURM's signal (a checkpoint, and ``scontrol requeue``) is kept and given
    later.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._requeue: Any = None  # Lightning's own handler
        self._requeue_signal = 0
        self._before: dict[int, Any] = {}

    def listen(self, trainer: Trainer) -> None:
        """Take the signals over, once Lightning has; it gives them back when the Trainer is done."""
        if self._before and all(signal.getsignal(number) == self._note for number in self._before):
            return
        self._noted, self._before, self._requeue_signal = 0, {}, 0
        if threading.current_thread() is not threading.main_thread():
            return
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        environment: Any = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = int(environment.requeue_signal or signal.SIGUSR1)
            self._requeue = self._before[self._requeue_signal] = signal.signal(self._requeue_signal, self._note)

    def let_go(self) -> None:
        """Have them end this process at once: something failed, and there is no batch any more to wait for.

        Lightning's own handler would talk to processes that may be gone.
        """
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._noted != signal.SIGTERM:
            self._noted = number
        name = signal.Signals(number).name
        _log.warning("%s: the batch under way is finished and saved first", name)

    def asked(self, trainer: Trainer) -> bool:
        """Whether a process of the run was asked to end: a collective, called by every process behind a batch."""
        noted = self._noted
        if trainer.world_size > 1:
            both = torch.tensor(
                [noted == signal.SIGTERM, noted == self._requeue_signal != 0], device=trainer.strategy.root_device
            )
            both = cast(Tensor, trainer.strategy.reduce(both.float(), reduce_op="sum"))
            noted = signal.SIGTERM if both[0] > 0 else self._requeue_signal if both[1] > 0 else 0
            self._noted = noted
        return noted != 0

    def answer(self, trainer: Trainer, done: int, advice: str) -> None:
        """Do what was asked for, now that everything is saved.

        Args:
            trainer: of the run.
            done: batches trained so far.
            advice: how to go on.

        Raises:
            SystemExit: with status 143, if the run is to end.
        """
        noted, self._noted = self._noted, 0
        if noted == signal.SIGTERM:
            if trainer.is_global_zero:
                _log.warning("ended by SIGTERM behind batch %d; %s", done, advice)
            raise SystemExit(ENDED_BY_SIGTERM if trainer.is_global_zero else 0)  # the first process speaks for all
        if callable(self._requeue):
            self._requeue(noted, None)
