"""A learning-rate schedule that learns the length of the run from the Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

__all__ = ["WarmupCosine", "make_optimizers"]


class WarmupCosine(LRScheduler):
    """Linear warm-up, then a cosine from the optimiser's learning rate to ``final`` times it.

    Counts rollout batches. A batch ``k`` of ``K`` with ``W = ceil(warmup K)`` runs at ``(k + 1) / (W + 1)`` of the rate while
    ``k < W``, then at ``final + (1 - final) (1 + cos(pi (k - W) / (K - W))) / 2``.

    Args:
        optimizer: whose rate is scheduled.
        warmup: share of the run spent warming up, in [0, 1).
        final: share of the rate left at the end, in [0, 1].
        total: rollout batches in the run; None = the module fills it in from the Trainer, also where a resumed run is longer.
        last_epoch: as in PyTorch.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = WarmupCosine(optimizer, warmup=0.25, total=4)
        >>> rates = [schedule.get_last_lr()[0]]
        >>> for _ in range(3):
        ...     optimizer.step(); schedule.step(); rates.append(schedule.get_last_lr()[0])
        >>> [round(rate, 4) for rate in rates]
        [0.5, 1.0, 0.75, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float = 0.1, final: float = 0.0, total: int | None = None, last_epoch: int = -1
    ) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {warmup}")
        if not 0 <= final <= 1:
            raise ValueError(f"`final` must be in [0, 1], got {final}")
        if total is not None and total < 1:
            raise ValueError(f"`total` must be >= 1, got {total}")
        self.warmup, self.final, self.total = warmup, final, total
        self._given = total is not None
        super().__init__(optimizer, last_epoch)

    def begin(self, total: int) -> None:
        """Take the length of the run, unless it was given, and set the rate of the batch to come."""
        if not self._given:
            self.total = max(1, total)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return how far it has come; its shape comes from the config: a resumed run may be longer."""
        return {key: value for key, value in super().state_dict().items() if key not in ("warmup", "final", "total", "_given")}

    def factor(self, k: int) -> float:
        """Return the share of the rate in batch ``k``."""
        if self.total is None:
            return 1.0
        warm = math.ceil(self.warmup * self.total)
        if k < warm:
            return (k + 1) / (warm + 1)
        progress = min(1.0, (k - warm) / max(1, self.total - warm))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


def make_optimizers(
    parameters: list[nn.Parameter],
    make_optimizer: Callable[[Any], Optimizer] | None,
    make_scheduler: Callable[[Any], Any] | None,
    endless: bool = False,
    lr: float = 1e-5,
    unit: str = "batches",
) -> Any:
    """Make what ``configure_optimizers`` returns; schedulers are stepped by Lightning's clock or once a rollout batch.

    Raises:
        ValueError: for a scheduler that waits for a metric, or one that needs a length in a run without end.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0) if make_optimizer is None else make_optimizer(parameters)
    if make_scheduler is None:
        return optimizer
    scheduler = make_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            f"`model.lr_scheduler` must be stepped by {unit}, got ReduceLROnPlateau: it waits for a metric; "
            "use lightning_focal.modules.WarmupCosine or another scheduler of torch"
        )
    if isinstance(scheduler, WarmupCosine) and endless and scheduler.total is None:
        raise ValueError(
            "`model.lr_scheduler.total` must be given, in rollout batches, for a run without end "
            "(`trainer.max_epochs: -1` and no `trainer.max_steps`)"
        )
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
