"""Lightning's Trainer in a run folder, with a precision that follows the device; what of Lightning a policy cannot be trained with."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import lightning.pytorch as lightning
import yaml
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO

from lightning_focal.arguments import described, lasting
from lightning_focal.callbacks import ConsoleReport, HeldOut, JudgeWatch, RolloutTable
from lightning_focal.models import check_shards, is_sharded_checkpoint
from lightning_focal.precision import resolved_precision
from lightning_focal.report import LogMedia, takes_media
from lightning_focal.rewards import RewardStrategy
from lightning_focal.runs import (
    RUN_FOLDER_ENV,
    AtomicCheckpointIO,
    ConfigRecord,
    CSVLog,
    EventLog,
    ProcessWatch,
    Resume,
    RunCheckpoint,
    RunFolder,
    RunRecord,
    own_rank,
    rejoin,
    release,
    resume_from,
    run_folder,
    run_scope,
    share_folder,
    take,
)
from lightning_focal.terminal import quiet

__all__ = ["TRAINER_DEFAULTS", "Trainer", "begin_run", "check_batches", "check_callbacks"]

TRAINER_DEFAULTS = MappingProxyType(
    {"log_every_n_steps": 1, "num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False}
)
"""Of Lightning's Trainer, in a run folder."""

Precision = (
    Literal["auto", "bf16-mixed", "32-true", "16-mixed", "bf16-true", "16-true", "64-true", "bf16", "32", "16", "64"]
    | Literal["transformer-engine", "transformer-engine-float16", 64, 32, 16]
)

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _in_run_folder(method: _Method) -> _Method:
    """Let a method of Lightning's Trainer run in the run folder, from the checkpoint that is meant."""
    parameters = inspect.signature(method)

    @functools.wraps(method)
    def run(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(self, *args, **kwargs)
        with self._in_folder(method.__name__, given.arguments.get("ckpt_path")) as given.arguments["ckpt_path"]:
            return method(*given.args, **given.kwargs)

    return cast(_Method, run)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, which also takes ``precision: auto``, and keeps a run in a folder of its own.

    With ``run_dir``, what is on the command line is here, too: config.yaml, run.json, metrics.csv, TensorBoard events, checkpoints that
    a killed run goes on from, and beside a reward strategy rollouts, held-out scores and the report on the console. Loggers that are
    given are added to the folder's own; ``logger=False`` leaves metrics.csv alone. `validate`, `test` and `predict` write to
    ``<run_dir>-validate`` and so on. ``ckpt_path`` of `fit` means what it means on the command line: ``last`` goes on with the run.

    Args:
        run_dir: folder of the run, made when the run begins; a number is put behind it where it is in use. None = Lightning's folders.
        precision: of the arithmetic; weights and optimiser keep theirs. ``auto``: ``bf16-mixed`` where the device is quick at
            bfloat16, else ``32-true`` (:func:`~lightning_focal.precision.resolved_precision`).
        accelerator: ``cpu``, ``gpu``, ``auto``, ... or an Accelerator.
        limit_train_batches: a count, or a share of all; early releases of Lightning read ``1`` on the command line as a share.
        limit_val_batches: the same.
        limit_test_batches: the same.
        limit_predict_batches: the same.
        **kwargs: Lightning's.

    Attributes:
        folder: the run folder, None before the run begins.

    >>> Trainer(precision="auto", accelerator="cpu", logger=False, barebones=True).precision in ("bf16-mixed", "32-true")
    True
    """

    def __init__(
        self,
        *,
        run_dir: str | Path | Resume | None = None,
        precision: Precision | None = None,
        accelerator: str | lightning.accelerators.Accelerator = "auto",
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        self.asked_precision, self.run_dir = precision, run_dir
        self.folder = run_dir.folder if isinstance(run_dir, Resume) else None
        self._folders: dict[str, Path] = {}
        limits: dict[str, Any] = {"limit_train_batches": limit_train_batches, "limit_val_batches": limit_val_batches}
        limits |= {"limit_test_batches": limit_test_batches}
        if run_dir is not None:
            quiet()
            self._given = {key: value for key, value in {"precision": precision, **kwargs}.items() if value is not None}
            self._given |= {"accelerator": accelerator, **limits}
            self._events = kwargs.get("logger") is not False
            self._loggers_given = [logger for logger in _listed(kwargs.get("logger")) if isinstance(logger, Logger)]
            rejoin()
            kwargs.update(_equipped(kwargs, self._loggers_given, ConfigRecord(self._settings)))
        limits |= {"limit_predict_batches": limit_predict_batches}
        super().__init__(precision=resolved_precision(precision, accelerator), accelerator=accelerator, **limits, **kwargs)

    @property
    def default_root_dir(self) -> str:
        """The run folder, or Lightning's choice."""
        return str(super().default_root_dir if self.folder is None else self.folder)

    fit = _in_run_folder(lightning.Trainer.fit)
    validate = _in_run_folder(lightning.Trainer.validate)
    test = _in_run_folder(lightning.Trainer.test)
    predict = _in_run_folder(lightning.Trainer.predict)

    @contextmanager
    def _in_folder(self, command: str, ckpt_path: Any) -> Iterator[Any]:
        if self.run_dir is None:
            yield ckpt_path
        elif isinstance(self.run_dir, Resume):  # who made the Trainer has begun the run
            self._move_to(self.folder, command)
            yield ckpt_path
            self._forget_trial()
        else:
            with run_scope():
                again = self._folders.get(command)
                if again is not None:
                    os.environ[RUN_FOLDER_ENV] = str(again)
                    take(again)
                resume = begin_run(self.run_dir, ckpt_path, command) if again is None else Resume(again, ckpt_path)
                self._move_to(resume.folder, command)
                for callback in self.checkpoint_callbacks:
                    if isinstance(callback, RunCheckpoint):
                        callback.resumed_from = resume.path
                try:
                    yield resume.path
                except BaseException:
                    self._folders.pop(command)  # a second try is a run of its own
                    raise
                self._forget_trial()

    def _forget_trial(self) -> None:
        """Leave no folder where nothing was kept."""
        if getattr(self, "fast_dev_run", False) and self.is_global_zero and self.folder is not None:
            release(self.folder)

    def _move_to(self, folder: Any, command: str) -> None:
        self.folder = self._folders[command] = folder
        if getattr(self, "fast_dev_run", False):
            return
        self.loggers = [CSVLog(folder), *([EventLog(folder)] if self._events else []), *self._loggers_given]
        if command == "fit":
            share_folder(
                [c for c in self.checkpoint_callbacks if isinstance(c, callbacks.ModelCheckpoint)], folder / "checkpoints"
            )

    def _settings(self) -> str:
        """What config.yaml says of a run that was put together in Python."""
        untold: list[str] = []
        given = [c for c in _listed(self._given.get("callbacks")) if not isinstance(c, ConfigRecord)]
        reward = next((callback for callback in given if isinstance(callback, RewardStrategy)), None)
        checkpoint = next((callback for callback in given if isinstance(callback, RunCheckpoint)), None)
        told = {key: value for key, value in self._given.items() if value is not None and key not in ("callbacks", "logger")}
        others = described([c for c in given if c is not reward and c is not checkpoint], "trainer.callbacks", untold)
        model: Any = self.lightning_module
        settings = {
            "seed_everything": int(os.environ["PL_GLOBAL_SEED"]) if "PL_GLOBAL_SEED" in os.environ else False,
            "run_dir": str(self.folder),
            "reward": described(reward, "reward", untold),
            "model": described(getattr(model, "arguments", {}), "model", untold),
            "data": described(getattr(self, "datamodule", None), "data", untold),
            "trainer": described(told, "trainer", untold) | ({"callbacks": others} if others else {}),
        }
        if checkpoint is not None:
            settings["checkpoint"] = described(checkpoint, "checkpoint", untold)["init_args"]
        head = f"# put together in Python; left out, as no file can hold it: {', '.join(untold)}\n" if untold else ""
        return head + str(yaml.safe_dump(lasting(settings), sort_keys=False, allow_unicode=True))


def begin_run(
    run_dir: str | Path, ckpt_path: str | Path | None, command: str, *, named: bool = True, typed: str = "the same command with"
) -> Resume:
    """Decide where a run writes to and what it starts from; the first process claims the folder before anything is written.

    Args:
        run_dir: folder asked for.
        ckpt_path: see :func:`~lightning_focal.runs.resume_from`.
        command: ``fit``, ``sft``, ``validate``, ``test`` or ``predict``.
        named: a person has named the folder.
        typed: what is typed in front of ``--run_dir=FOLDER``, for messages.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if it cannot be gone on from.
    """
    trains, wanted, known = command not in ("validate", "test", "predict"), Path(run_dir), os.environ.get(RUN_FOLDER_ENV)
    folder = Path(known) if known and trains else None
    asked = None if ckpt_path is None else str(ckpt_path)
    resume = resume_from(asked, wanted, trains, folder, named=named, command=typed)
    if resume.path is not None and is_sharded_checkpoint(resume.path):
        check_shards(resume.path)  # before anybody else reads its index, which is a pickle
    if known is None:
        folder = resume.folder if trains else None
        wanted = wanted if trains else wanted.with_name(f"{wanted.name}-{command}")
        if own_rank():  # the first process claims the folder, and tells the others once they talk
            folder = folder or wanted
        else:
            folder = folder or run_folder(wanted)
            if trains:
                take(folder)
        os.environ[RUN_FOLDER_ENV] = str(folder)
    return Resume(Path(os.environ[RUN_FOLDER_ENV]), resume.path)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _equipped(given: Mapping[str, Any], loggers: Sequence[Logger], record: ConfigRecord) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that differ in a run folder from what was given."""

    def missing(kinds: Sequence[type[callbacks.Callback]]) -> list[callbacks.Callback]:
        return [kind() for kind in kinds if not any(isinstance(callback, kind) for callback in own)]

    own, plugins = _listed(given.get("callbacks")), _listed(given.get("plugins"))
    more: list[callbacks.Callback] = [ProcessWatch()]
    if any(isinstance(callback, RewardStrategy) for callback in own):
        more += missing(
            [RunRecord, HeldOut, RolloutTable, ConsoleReport, JudgeWatch, *([LogMedia] if any(map(takes_media, loggers)) else [])]
        )
    if given.get("enable_checkpointing") is not False:
        more += missing([RunCheckpoint])
    if not any(isinstance(callback, ConfigRecord) for callback in own):
        more.append(record)
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, AtomicCheckpointIO()]
    defaults = {key: value for key, value in TRAINER_DEFAULTS.items() if given.get(key) is None}
    beside = {"callbacks": [RunFolder(), *own, *more], "plugins": plugins, "logger": [CSVLog(""), *loggers]}
    return {**defaults, **beside}


_REFUSED: Sequence[tuple[tuple[type, ...], str]] = (
    ((callbacks.StochasticWeightAveraging,), "it copies the module before the policy is loaded, and would average nothing"),
    ((callbacks.BaseFinetuning,), "it freezes weights before the policy is loaded; `model.lora` trains a part of them"),
    ((callbacks.ModelPruning,), "it looks for weights before the policy is loaded"),
    ((callbacks.LearningRateFinder,), "the rate is `model.optimizer.init_args.lr`, and is tried in runs of their own"),
    (
        (callbacks.BatchSizeFinder,),
        "`data.batch_size` is part of what a run computes; `model.gradient_checkpointing` and `model.update.micro_batch_size` save memory",
    ),
    (
        (callbacks.OnExceptionCheckpoint,),
        "it goes on unasked from the file it finds, and deletes it in the end; `checkpoint.every_minutes` says how often a run saves",
    ),
)
_REFUSED_BY_HAND: Sequence[tuple[tuple[type, ...], str]] = (
    ((callbacks.GradientAccumulationScheduler,), "write `model.update.micro_batch_size` (sequences in one forward and backward)"),
    ((callbacks.SpikeDetection,), "a batch of rollouts has no one loss; `model.update.max_bad_steps` ends a run that breaks"),
    (
        (callbacks.WeightAveraging,),
        "rollouts would come from other weights than those that learn; `lightning_focal.callbacks.EMATeacher` averages a policy",
    ),
)


def check_callbacks(given: Sequence[Any], automatic: bool) -> None:
    """Refuse callbacks of Lightning that would do something else than they say, before anything is loaded.

    Args:
        given: the Trainer's callbacks.
        automatic: the module leaves optimisation to the Trainer.

    Raises:
        ValueError: at the first one, with the reason.

    >>> check_callbacks([callbacks.GradientAccumulationScheduler({0: 2})], automatic=True)
    >>> check_callbacks([callbacks.BatchSizeFinder()], automatic=True)
    Traceback (most recent call last):
    ValueError: `trainer.callbacks` must not hold BatchSizeFinder: `data.batch_size` is part of what a run computes; ...
    """
    for callback in given:
        for kinds, words in _REFUSED if automatic else [*_REFUSED, *_REFUSED_BY_HAND]:
            if isinstance(callback, kinds):
                raise ValueError(f"`trainer.callbacks` must not hold {type(callback).__name__}: {words}")


def check_batches(trainer: Any) -> None:
    """Refuse limits that leave no batch, and a validation that never comes, before any weight is read.

    Args:
        trainer: about to fit, with a data module whose rows are read.

    Raises:
        ValueError: for a share of the batches that is less than one, or an interval longer than an epoch.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None or trainer.state.fn != "fit":
        return
    loaders, counts = {"train": data.train_dataloader(), "val": data.val_dataloader()}, dict[str, int]()
    for split, loader in loaders.items():
        limit, total = getattr(trainer, f"limit_{split}_batches"), len(loader)
        counts[split] = min(total, limit) if isinstance(limit, int) else int(total * limit)
        if total and limit and not counts[split]:
            key = "overfit_batches" if trainer.overfit_batches else f"limit_{split}_batches"
            raise ValueError(
                f"`trainer.{key}` must leave a batch, got {limit} of {total} in `data.{split}`: an integer is a count, a float a share"
            )
    every, batches = trainer.val_check_interval, counts["train"]
    if isinstance(every, int) and counts["val"] and trainer.check_val_every_n_epoch is not None and every > batches > 0:
        raise ValueError(
            f"`trainer.val_check_interval` must be at most the {batches} batches of an epoch, got {every}; with "
            "`trainer.check_val_every_n_epoch: null` it counts batches over epochs"
        )
