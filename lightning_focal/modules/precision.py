"""Which of Lightning's precisions a run of rollouts can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["check_precision"]


def check_precision(trainer: Trainer) -> None:
    """Refuse precisions that change more than the arithmetic of the policy.

    Args:
        trainer: its precision plugin is asked.

    Raises:
        ValueError: for a precision that scales the loss, and for one that makes every new tensor as narrow as the weights.
    """
    plugin = trainer.precision_plugin
    precision = str(getattr(plugin, "precision", "32-true"))
    if getattr(plugin, "scaler", None) is not None or precision == "16-mixed":
        raise ValueError(
            "`trainer.precision` must not scale the loss, got 16-mixed: gradients would be clipped while they are scaled; "
            "use bf16-mixed or 32-true"
        )
    if precision in ("bf16-true", "16-true", "64-true"):
        raise ValueError(
            f"`trainer.precision` must be 32-true or bf16-mixed, got {precision}: Lightning would make every new tensor of that "
            "width, rewards and batches included; for weights in bfloat16 write `--model.dtype=bfloat16`"
        )
