"""Lightning's Trainer with a precision that follows the device."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as lightning

from lightning_focal.precision import resolved_precision

__all__ = ["Trainer"]

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
        **kwargs: Lightning's.

    >>> Trainer(precision="auto", accelerator="cpu", logger=False, barebones=True).precision in ("bf16-mixed", "32-true")
    True
    """

    def __init__(
        self, *, precision: Precision | None = None, accelerator: str | lightning.accelerators.Accelerator = "auto", **kwargs: Any
    ) -> None:
        self.asked_precision = precision
        super().__init__(precision=resolved_precision(precision, accelerator), accelerator=accelerator, **kwargs)
