"""The checkpoints that a run goes on from: when they are written, and how many are kept."""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins import AsyncCheckpointIO

from lightning_focal.files import SetAside
from lightning_focal.runs.checkpoint_io import SAVING
from lightning_focal.runs.loggers import CSVLog, EventLog
from lightning_focal.runs.processes import Signals
from lightning_focal.runs.resume import LAST, remove, remove_leftovers

__all__ = ["RunCheckpoint", "RunFolder", "share_folder"]

_log = logging.getLogger(__name__)


class RunCheckpoint(Checkpoint):
    """Writes ``step=N.ckpt``, points ``last.ckpt`` at it, and keeps the one before.

    A checkpoint is written when nothing of its batch is left to do: behind the batch's validation and its row in the logs, before
    anything of the next batch or epoch begins, and for the last batch of a run behind everything. So a run resumed from it neither
    repeats nor misses a row, an event or an evaluation. How often changes nothing in what comes out.

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
        self, every_n_batches: int | None = None, every_minutes: float | None = 10.0, every_epoch: bool = True, keep: int = 2
    ) -> None:
        if every_n_batches is not None and every_n_batches < 1:
            raise ValueError(f"`checkpoint.every_n_batches` must be >= 1, got {every_n_batches}")
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"`checkpoint.every_minutes` must be > 0, got {every_minutes}")
        if keep < 2:
            raise ValueError(f"`checkpoint.keep` must be >= 2, so that one is left where the newest is damaged, got {keep}")
        self.every_n_batches, self.every_minutes, self.every_epoch, self.keep = every_n_batches, every_minutes, every_epoch, keep
        self.folder = Path("checkpoints")
        self.last_model_path = ""
        self.resumed_from: str | None = None
        self.signals = Signals()
        self._saved = self._looked = -1  # batches done when the last one was written, and when it was last asked for
        self._saved_at = time.monotonic()
        self._epoch_over = False
        self._loops: dict[str, Any] | None = None  # progress behind the last batch, None where gradients are being accumulated
        self._loops_saved: dict[str, Any] | None = None  # what goes into a checkpoint written now, None = the Trainer's

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder, and on what the run goes on from: every process has looked for itself.

        Raises:
            ValueError: on every process, where one has found another checkpoint than the first one; for a plugin that has not written a
                checkpoint when it says so.
        """
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise ValueError(
                "`trainer.plugins` must not hold AsyncCheckpointIO: a checkpoint gets its name when it is whole, so it is waited for"
            )
        log_dir = trainer.log_dir  # a collective: asked for on every process
        self.folder = Path(trainer.strategy.broadcast(str(log_dir or trainer.default_root_dir))) / "checkpoints"
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
        self._saved = self._looked = _done(trainer)
        self._saved_at, self._loops = time.monotonic(), None
        if trainer.is_global_zero and not _is_trial(trainer):
            if (self.folder / LAST).exists():
                self.last_model_path = str(self.folder / LAST)
            remove_leftovers(self.folder.parent)
        self.signals.listen()  # RunFolder, which comes before everybody else, may have done so
        self.leave_if_asked(trainer)

    # -- when -----------------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the progress: by the time the checkpoint is written the next batch is fetched already."""
        progress, self._epoch_over = _progress(trainer), False
        stepped = progress.is_last_batch or progress.current.ready % trainer.accumulate_grad_batches == 0
        self._loops = _loops(trainer) if stepped else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that this validation is over, too."""
        if self._loops is not None and trainer.state.fn == "fit":
            self._loops = _loops(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end of the epoch, unless the run ends within it: a longer run would skip the rest."""
        if _progress(trainer).is_last_batch:
            self._epoch_over, self._loops = True, _loops(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any = None, batch_idx: int = 0) -> None:
        """Write one where it is time to, unless :class:`RunFolder` has seen to that."""
        self.between_batches(trainer)

    on_train_batch_start = on_train_epoch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one, behind the evaluation after training."""
        self._loops_saved = None if self._epoch_over else self._loops
        self._save(trainer)
        self._loops_saved = None

    def between_batches(self, trainer: Trainer) -> None:
        """Write one where it is time to, and end a run that was asked to: called before anything of the next batch or epoch begins."""
        done = _done(trainer)
        if self._loops is None or done == self._looked:
            return
        self._looked = done
        asked = self.signals.asked(trainer)
        due = self._epoch_over and self.every_epoch
        due = due or (self.every_n_batches is not None and done - self._saved >= self.every_n_batches)
        if not due and self.every_minutes is not None:
            due = trainer.strategy.broadcast(time.monotonic() - self._saved_at >= 60 * self.every_minutes)
        self._loops_saved = self._loops
        if due or asked:
            self._save(trainer)
        self.signals.answer(trainer, asked, done, self._how_to_go_on())
        self._loops_saved = None

    def leave_if_asked(self, trainer: Trainer) -> None:
        """End the run where that was asked for and everything it has trained is saved; called by every process alike."""
        if _done(trainer) <= max(self._saved, 0) or self._saved < 0:
            self.signals.answer(trainer, self.signals.asked(trainer), _done(trainer), self._how_to_go_on())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say where the run can go on."""
        self.signals.let_go()
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            _log.warning("stopped by Ctrl-C; %s", self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        if not self.last_model_path:
            return "nothing was saved yet: the same command starts again"
        return f"the same command with --ckpt_path={self.last_model_path} goes on"

    # -- what -----------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer) -> None:
        done = _done(trainer)
        if _is_trial(trainer) or done <= max(self._saved, 0):
            return
        for logger in trainer.loggers:
            logger.flush() if isinstance(logger, CSVLog) else logger.save()
        target = self.folder / f"step={trainer.global_step}.ckpt"
        beside = target.with_name(f"{SAVING}{target.name}")
        if trainer.is_global_zero:
            remove(beside)
        trainer.save_checkpoint(beside, weights_only=False)
        if trainer.is_global_zero:
            if target.is_dir():
                remove(target)
            os.replace(beside, target)
            _point(self.folder / LAST, target.name)
            others = [path for path in self.folder.glob("step=*.ckpt") if path != target]
            for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)[self.keep - 1 :]:
                remove(path)
        self.last_model_path = str(self.folder / LAST)
        self._saved, self._saved_at = done, time.monotonic()
        trainer.strategy.barrier()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the progress behind the last batch in place of the Trainer's, which is about to begin the next one."""
        if self._loops_saved is not None:
            checkpoint["loops"]["fit_loop"] = self._loops_saved

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where a run goes on is not part of what it computes."""
        return {}


class RunFolder(Callback):
    """As the first callback of a run, keeps its folder in step with the checkpoint it goes on from.

    It sets aside what was logged and saved behind that checkpoint, as it is about to be written again: everything, where a run begins
    anew in the folder of one that was killed before its first. It has the run's checkpoints listen to signals before anybody
    evaluates anything, and has them written before another callback begins with the next batch.

    Attributes:
        set_aside: where this start keeps such things, for callbacks that write files, too.
    """

    set_aside: SetAside | None = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen from here on."""
        for checkpoint in _run_checkpoints(trainer):
            checkpoint.signals.listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set aside what is to be written again."""
        self.on_sanity_check_start(trainer, pl_module)
        folder = trainer.log_dir  # a collective: asked for on every process
        self.set_aside = SetAside(folder or trainer.default_root_dir, _done(trainer))
        for logger in trainer.loggers:
            if isinstance(logger, (CSVLog, EventLog)):
                logger.forget_after(_done(trainer) - 1, self.set_aside)
        if trainer.is_global_zero and not _is_trial(trainer):
            for path in sorted((self.set_aside.folder / "checkpoints").glob("step=*.ckpt")):
                step = re.fullmatch(r"step=(\d+)\.ckpt", path.name)
                if step and int(step[1]) > trainer.global_step:
                    self.set_aside.keep(path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any = None, batch_idx: int = 0) -> None:
        """Save what is behind."""
        for checkpoint in _run_checkpoints(trainer):
            checkpoint.between_batches(trainer)

    on_train_batch_start = on_train_epoch_start


def share_folder(callbacks: list[ModelCheckpoint], folder: Path) -> None:
    """Have Lightning's checkpoints written beside the run's own, which alone are called ``last.ckpt``."""
    for callback in callbacks:
        callback.dirpath = callback.dirpath or str(folder)
        if callback.save_last and Path(callback.dirpath).resolve() == folder.resolve():
            callback.save_last = False  # it would be the last of the best: ours is the last


def _run_checkpoints(trainer: Trainer) -> list[RunCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]


def _is_trial(trainer: Trainer) -> bool:
    """Whether everything is tried once and nothing is to be kept."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _progress(trainer: Trainer) -> Any:
    return trainer.fit_loop.epoch_loop.batch_progress


def _done(trainer: Trainer) -> int:
    return int(_progress(trainer).total.processed)


def _loops(trainer: Trainer) -> dict[str, Any]:
    return copy.deepcopy(trainer.fit_loop.state_dict())


def _point(link: Path, name: str) -> None:
    """Point ``link`` at a file beside it; there is no moment without a link."""
    beside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(name)
    except OSError:  # a file system without links
        shutil.copyfile(link.with_name(name), beside)
    os.replace(beside, link)
