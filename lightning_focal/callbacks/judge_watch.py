"""Stops a run whose judge fails too often to learn from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts
from lightning_focal.types import CriterionScores

__all__ = ["JudgeWatch"]


class JudgeWatch(RolloutObserver):
    """Follows ``train/judge/failure_rate``, the share of judgements that failed and are masked (ours).

    While its mean over the last batches is at most ``max_failure_rate`` the run goes on with what was judged. Above it the run stops with
    an error that says why judgements failed: from the fifth batch on, and at once where nothing has been judged since the run began. A
    batch that itself fails no more often than that never stops a run. The rate is that of all processes, which therefore decide
    alike; the window is in the checkpoint.

    Args:
        max_failure_rate: in [0, 1]; 1 = never stop.
        window: number of batches in the mean.

    Raises:
        ValueError: for an argument out of range.

    >>> watch = JudgeWatch(window=20)
    >>> [watch.add(rate) for rate in (0.0, 1.0, 1.0, 0.2, 1.0, 1.0)]
    [False, False, False, False, True, True]
    """

    def __init__(self, max_failure_rate: float = 0.5, window: int = 20) -> None:
        if not 0 <= max_failure_rate <= 1:
            raise ValueError(f"`max_failure_rate` must be in [0, 1], got {max_failure_rate}")
        if window < 1:
            raise ValueError(f"`window` must be >= 1 batch, got {window}")
        self.max_failure_rate, self.window = max_failure_rate, window
        self.rates: list[float] = []
        self._reasons: Counter[str] = Counter()

    def add(self, rate: float) -> bool:
        """Take the failure rate of a batch, NaN = nothing was to be judged; return whether the run has to stop."""
        if math.isnan(rate):
            return False
        self.rates = [*self.rates, rate][-self.window :]
        enough = len(self.rates) >= min(self.window, 5) or min(self.rates) == 1
        return enough and rate > self.max_failure_rate and self.mean > self.max_failure_rate

    @property
    def mean(self) -> float:
        """Mean failure rate over the window, NaN before the first batch."""
        return sum(self.rates) / len(self.rates) if self.rates else math.nan

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Note why judgements of a training batch failed."""
        if scored.stage == "train":
            self._reasons = Counter(_failures(scored.scores))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at a batch; RuntimeError if the judge fails too often."""
        if not self.add(float(trainer.callback_metrics.get("train/judge/failure_rate", math.nan))):
            return
        said = "; ".join(f"{reason or 'no reason given'} ({count} times)" for reason, count in self._reasons.most_common(3))
        raise RuntimeError(
            f"the judge failed on {self.mean:.0%} of the judgements of the last {len(self.rates)} batches, `max_failure_rate` is "
            f"{self.max_failure_rate:.0%}; failed judgements are masked, and little is left to learn from. In the last batch: "
            f"{said or 'no failure on this process'}. `lightning_focal judge --check --config FILE` tests a judge's server; "
            "`--ckpt_path=last` goes on with this run"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the window."""
        return {"rates": list(self.rates)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the window, as much of it as this one holds."""
        self.rates = [float(rate) for rate in state_dict["rates"]][-self.window :]


def _failures(scores: CriterionScores) -> Iterator[str]:
    """Give the reason of every judgement that failed, "" where the source has none; outcomes and reasons are optional."""
    if scores.outcomes is not None:
        failed = [[[outcome == "error" for outcome in row] for row in group] for group in scores.outcomes]
    else:
        failed = [] if scores.failed is None else scores.failed.tolist()
    for p, group in enumerate(failed):
        for g, row in enumerate(group):
            for c in range(len(scores.names[p])):
                if row[c]:
                    yield scores.reasons[p][g][c] if scores.reasons is not None else ""
