"""Which of Lightning's precisions a run of rollouts can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_focal.precision import warn_if_slow

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["check_precision", "precision_words"]


def check_precision(trainer: Trainer) -> None:
    """Refuse precisions that change more than the arithmetic of the policy, and warn of one that is slow here.

    Args:
        trainer: its precision plugin is asked.

    Raises:
        ValueError: for a precision that scales the loss, and for one that makes every new tensor as narrow as the weights.
    """
    plugin = trainer.precision_plugin
    precision = str(getattr(plugin, "precision", "32-true"))
    if precision == "bf16-mixed":
        warn_if_slow("trainer.precision", precision, "bfloat16", trainer.strategy.root_device)
    if getattr(plugin, "scaler", None) is not None or precision == "16-mixed":
        raise ValueError(
            "`trainer.precision` must not scale the loss, got 16-mixed: gradients would be clipped while they are scaled; "
            "use auto, bf16-mixed or 32-true"
        )
    if precision in ("bf16-true", "16-true", "64-true"):
        raise ValueError(
            f"`trainer.precision` must be auto, 32-true or bf16-mixed, got {precision}: Lightning would make every new tensor of that "
            "width, rewards and batches included; for weights in bfloat16 write `--model.dtype=bfloat16`"
        )


def precision_words(trainer: Trainer) -> str:
    """Name the precision of the arithmetic, and what chose it."""
    chosen = " (auto)" if getattr(trainer, "asked_precision", None) == "auto" else ""
    return {"32-true": "float32"}.get(str(trainer.precision), str(trainer.precision)) + chosen
