"""What observers of a rollout batch are handed, and the protocol they fill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_focal.types import CriterionScores, Rollouts, Shaped

__all__ = ["RolloutObserver", "ScoredRollouts", "batches_done"]


@dataclass(frozen=True)
class ScoredRollouts:
    """A batch: rolled out, scored and shaped.

    ``stage`` is ``train``, ``val``, ``test`` or ``predict``; ``batch_idx`` counts within the epoch.
    ``rejected`` are groups of a training batch that were judged and are not part of the update, see
    :class:`~lightning_focal.modules.DynamicSampling`; None = none on any process.
    """

    stage: str
    batch_idx: int
    rollouts: Rollouts
    scores: CriterionScores
    shaped: Shaped
    rejected: ScoredRollouts | None = None


def batches_done(trainer: Trainer) -> int:
    """Return the number of rollout batches trained on so far, over all epochs and resumed runs."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]


class RolloutObserver(Callback, ABC):
    """A callback that is shown every batch of scored rollouts, before the update, on every process."""

    @abstractmethod
    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Look at a batch; changes nothing."""
