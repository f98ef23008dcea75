"""Lightning's Trainer with a precision that follows the device, and what of Lightning a policy cannot be trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as lightning
from lightning.pytorch import callbacks

from lightning_focal.precision import resolved_precision

__all__ = ["Trainer", "check_batches", "check_callbacks"]

Precision = (
    Literal[
        "auto",
        "bf16-mixed",
        "32-true",
        "16-mixed",
        "bf16-true",
        "16-true",
        "64-true",
        "bf16",
        "32",
        "16",
        "64",
        "transformer-engine",
        "transformer-engine-float16",
    ]
    | Literal[64, 32, 16]
)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, which also takes ``precision: auto``.

    Args:
        precision: of the arithmetic; weights and optimiser keep theirs. ``auto``: ``bf16-mixed`` where the device is quick at
            bfloat16, else ``32-true`` (:func:`~lightning_focal.precision.resolved_precision`).
        accelerator: ``cpu``, ``gpu``, ``auto``, ... or an Accelerator.
        limit_train_batches: a count, or a share of all; early releases of Lightning read ``1`` on the command line as a share.
        limit_val_batches: the same.
        limit_test_batches: the same.
        limit_predict_batches: the same.
        **kwargs: Lightning's.

    >>> Trainer(precision="auto", accelerator="cpu", logger=False, barebones=True).precision in ("bf16-mixed", "32-true")
    True
    """

    def __init__(
        self,
        *,
        precision: Precision | None = None,
        accelerator: str | lightning.accelerators.Accelerator = "auto",
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        self.asked_precision = precision
        super().__init__(
            precision=resolved_precision(precision, accelerator),
            accelerator=accelerator,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )


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
