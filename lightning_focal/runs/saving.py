"""The checkpoints that a run goes on from: when they are written, and how many are kept."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lightning_focal.runs.checkpoint_io import SAVING
from lightning_focal.runs.csv_log import CSVLog
from lightning_focal.runs.events import EventLog
from lightning_focal.runs.last import LAST, remove, remove_leftovers
from lightning_focal.runs.signals import Signals

__all__ = ["RunCheckpoint", "share_folder"]

_log = logging.getLogger(__name__)


class RunCheckpoint(Checkpoint):
    """Writes ``step=N.ckpt``, points ``last.ckpt`` at it, and keeps the one before.

    A checkpoint is written where nothing of its batch is left to do: behind the batch, behind its validation where it has one, and for
    the last batch of a run behind everything, so that a run resumed from it neither repeats nor misses a row, an event or an
    evaluation. How often changes nothing in what comes out.

    A run that is asked to end (SIGTERM) writes one after the batch under way and ends with status 143; SLURM's signal before it
    requeues a job is answered at the same place, by Lightning. On several processes one that is asked is enough.

    Args:
        every_n_batches: write one after so many rollout batches; None = by time alone.
        every_minutes: write one when the last is so old; None = by number alone.
        every_epoch: write one at the end of an epoch.
        keep: whole checkpoints to keep, at least 2: the one before the newest is there in case the newest is damaged.

    Attributes:
        folder: ``<run folder>/checkpoints``.
        last_model_path: ``last.ckpt``, empty before the first was written.
        resumed_from: the checkpoint that this process is about to go on from; told by who starts the run.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        every_n_batches: int | None = None,
        every_minutes: float | None = 10.0,
        every_epoch: bool = True,
        keep: int = 2,
    ) -> None:
        if every_n_batches is not None and every_n_batches < 1:
            raise ValueError(f"`checkpoint.every_n_batches` must be >= 1, got {every_n_batches}")
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"`checkpoint.every_minutes` must be > 0, got {every_minutes}")
        if keep < 2:
            raise ValueError(f"`checkpoint.keep` must be >= 2, so that one is left where the newest is damaged, got {keep}")
        self.every_n_batches, self.every_minutes, self.every_epoch, self.keep = every_n_batches, every_minutes, every_epoch, keep
        self.folder: str | None = None
        self.last_model_path = ""
        self.resumed_from: str | None = None
        self.signals = Signals()
        self._saved = -1  # batches done when the last one was written
        self._saved_at = time.monotonic()
        self._loops: dict[str, Any] | None = None

    # -- when -----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder, and on what the run goes on from: every process has looked for itself.

        Raises:
            ValueError: on every process, where one has found another checkpoint than the first one.
        """
        log_dir = trainer.log_dir  # a collective: asked for on every process
        self.folder = trainer.strategy.broadcast(str(Path(log_dir or trainer.default_root_dir) / "checkpoints"))
        own = str(self.resumed_from or "none")
        first = trainer.strategy.broadcast(own)
        same = Path(own).parts[-3:] == Path(first).parts[-3:]  # machines may mount folders in different places
        if not trainer.strategy.reduce_boolean_decision(same, all=True):
            raise ValueError(
                f"the processes of this run would go on from different checkpoints, the first one from {first}, process "
                f"{trainer.global_rank} from {own}: name one with --ckpt_path"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear what a killed run was writing; end at once where that was asked for while the first evaluation ran."""
        self._saved, self._saved_at = _done(trainer), time.monotonic()
        if trainer.is_global_zero:
            if Path(self._folder / LAST).exists():
                self.last_model_path = str(self._folder / LAST)
            remove_leftovers(self._folder.parent)
        self.signals.listen(trainer)  # RunFolder, which comes before everybody else, may have done so
        self.leave_if_asked(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write one where it is time to, unless more is to be done for this batch."""
        asked = self.signals.asked(trainer)
        loop: Any = trainer.fit_loop
        if loop._should_accumulate() or loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            return
        if self._ends(trainer):
            self._remember(trainer)
            return
        if loop.epoch_loop.batch_progress.is_last_batch:
            return  # the end of the epoch comes at once
        if asked or self._due(trainer):
            self._save(trainer)
        self._leave(trainer, asked)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As behind a batch."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self._ends(trainer):
            self._remember(trainer)
            return
        asked = self.signals.asked(trainer)
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and self.every_epoch
        if asked or last or self._due(trainer):
            self._save(trainer)
        self._leave(trainer, asked)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one, unless the epoch's validation did or the run ends here."""
        if self._ends(trainer):
            return
        asked = self.signals.asked(trainer)
        if asked or self.every_epoch or self._due(trainer):
            self._save(trainer)
        self._leave(trainer, asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one, behind the evaluation after training."""
        self._save(trainer)
        self._loops = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the progress of the last batch in place of that of an epoch that the Trainer takes for done."""
        if self._loops is not None:
            checkpoint["loops"] = self._loops

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say where the run can go on."""
        self.signals.let_go()
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            _log.warning("stopped by Ctrl-C; %s", self.how_to_go_on())

    def leave_if_asked(self, trainer: Trainer) -> None:
        """End the run where that was asked for and everything it has trained is saved; called by every process alike."""
        if _done(trainer) <= max(self._saved, 0) or self._saved < 0:
            self._leave(trainer, self.signals.asked(trainer))

    def _due(self, trainer: Trainer) -> bool:
        if self.every_n_batches is not None and _done(trainer) - self._saved >= self.every_n_batches:
            return True
        if self.every_minutes is None:
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_minutes))

    def _remember(self, trainer: Trainer) -> None:
        """Note where the run ends within an epoch: behind its end the Trainer counts the epoch as done, and a longer run would skip the rest."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            connector: Any = trainer._checkpoint_connector
            self._loops = copy.deepcopy(connector._get_loops_state_dict())

    def _ends(self, trainer: Trainer) -> bool:
        """Whether nothing comes after this batch but the end of the run."""
        loop: Any = trainer.fit_loop
        if 0 <= trainer.max_steps <= trainer.global_step:
            return True
        if trainer.should_stop and loop._can_stop_early:
            return True
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= int(trainer.max_epochs or 0)
        return bool(last_epoch and loop.epoch_loop._is_training_done)

    # -- what -----------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer) -> None:
        done = _done(trainer)
        if getattr(trainer, "fast_dev_run", False) or done <= max(self._saved, 0):
            return
        log_pending(trainer)
        target = self._folder / f"step={trainer.global_step}.ckpt"
        beside = target.with_name(f"{SAVING}{target.name}")
        if trainer.is_global_zero:
            remove(beside)
        trainer.save_checkpoint(beside, weights_only=False)
        if trainer.is_global_zero:
            if target.is_dir():
                remove(target)
            os.replace(beside, target)
            _point(self._folder / LAST, target.name)
            self._prune(target)
        self.last_model_path = str(self._folder / LAST)
        self._saved, self._saved_at = done, time.monotonic()
        trainer.strategy.barrier()

    def _prune(self, newest: Path) -> None:
        ours = [path for path in self._folder.glob("step=*.ckpt") if path != newest]
        ours.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in ours[self.keep - 1 :]:
            remove(path)

    @property
    def _folder(self) -> Path:
        if self.folder is None:
            raise RuntimeError("the folder is known once a Trainer has called `setup`")
        return Path(self.folder)

    def _leave(self, trainer: Trainer, asked: bool) -> None:
        if asked:
            self.signals.answer(trainer, _done(trainer), self.how_to_go_on())

    def how_to_go_on(self) -> str:
        """Return the words for a person whose run has stopped."""
        if not self.last_model_path:
            return "nothing was saved yet: the same command starts again"
        return f"the same command with --ckpt_path={self.last_model_path} goes on"

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where a run goes on is not part of what it computes."""
        return {}


def log_pending(trainer: Trainer) -> None:
    """Hand the row of the batch that has just ended to the run folder's loggers, and flush them.

    Module and Trainer would do it right behind the hooks; a run that is killed in between would resume without the row. What others
    logged by ``log`` is handed over twice, which the run folder's loggers take.
    """
    module: Any = trainer.lightning_module
    if hasattr(module, "step_log"):
        module.step_log.write(trainer)
    connector: Any = trainer._logger_connector
    ours = [logger for logger in trainer.loggers if isinstance(logger, (CSVLog, EventLog))]
    if trainer.training and connector.should_update_logs and trainer._results is not None:
        row: Mapping[str, Any] = convert_tensors_to_scalars(connector.metrics["log"])
        if row:
            step = int(trainer.fit_loop.epoch_loop._batches_that_stepped)
            for logger in ours:
                logger.log_metrics({"epoch": trainer.current_epoch, **row}, step=step)
    for logger in ours:
        logger.flush() if isinstance(logger, CSVLog) else logger.save()


def share_folder(callbacks: list[ModelCheckpoint], folder: Path) -> None:
    """Have Lightning's checkpoints written beside the run's own, which alone are called ``last.ckpt``."""
    for callback in callbacks:
        callback.dirpath = callback.dirpath or str(folder)
        if callback.save_last and Path(callback.dirpath).resolve() == folder.resolve():
            callback.save_last = False  # it would be the last of the best: ours is the last


def _point(link: Path, name: str) -> None:
    """Point ``link`` at a file beside it; there is no moment without a link."""
    beside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(name)
    except OSError:  # a system without links: a second name, or a copy
        try:
            os.link(link.with_name(name), beside)
        except OSError:
            torch.save(torch.load(link.with_name(name), weights_only=True), beside)
    os.replace(beside, link)


def _done(trainer: Trainer) -> int:
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]
