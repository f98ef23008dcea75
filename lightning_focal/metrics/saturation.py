"""How far each criterion is satisfied, as a torchmetrics metric."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_focal.functional import level_index, level_sums, pool_levels

__all__ = ["CriterionSaturation"]


class CriterionSaturation(Metric):
    """Saturation level of each criterion name, pooled over groups, batches and processes.

    ``sigma_k = sum q m s / sum q m`` over everything seen under name ``k``, with the rollout weights ``q`` of
    :func:`~lightning_focal.functional.inverse_reward_projection` (arXiv:2605.26579; public re-implementation; pooling: ours).

    Args:
        names: the level names, ``K`` of them (a criterion's own name, or its axis); none where they are not known yet.
        temperature: > 0, in units of reward.
        **kwargs: passed on to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if a name occurs twice.

    >>> saturation = CriterionSaturation(["short", "polite"])
    >>> saturation.update(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.tensor([[0.5, 0.5]]))
    >>> saturation.compute()
    tensor([1.0000, 0.6225], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    projected: Tensor
    judged: Tensor

    def __init__(self, names: Sequence[str], temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must be unique, got {list(names)}")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {temperature}")
        self.names = tuple(names)
        self.temperature = temperature
        for state in ("projected", "judged"):
            # float64: a running sum over a long training outgrows the digits of float32.
            self.add_state(state, torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)

    def index(self, keys: Sequence[Sequence[str]] | None, prompts: int, width: int) -> Tensor:
        """Return ``[P, C]`` int64, the position in ``names`` of each criterion, -1 = padding; ``keys`` None = columns are names.

        Raises:
            ValueError: on an unknown key, or without keys when the columns are not one a name.
        """
        if keys is not None:
            return level_index(keys, self.names, width).to(self.projected.device)
        if width != len(self.names):
            raise ValueError(f"`scores` must have C = {len(self.names)} columns, one a name, where `keys` is None, got {width}")
        return torch.arange(width, device=self.projected.device).expand(prompts, width)

    def update(
        self, scores: Tensor, weights: Tensor, mask: Tensor | None = None, keys: Sequence[Sequence[str]] | None = None
    ) -> None:
        """Add a batch.

        Args:
            scores: ``[P, G, C]`` in [0, 1].
            weights: ``[P, C]`` base weights >= 0.
            mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
            keys: ``[P][<=C]`` the level name of each criterion; None = the columns are ``names``.

        Raises:
            ValueError: on an unknown key or shapes that do not fit.
        """
        projected, judged = self.sums(scores, weights, mask, keys)
        self.projected += projected.to(self.projected.device)
        self.judged += judged.to(self.judged.device)

    def sums(
        self, scores: Tensor, weights: Tensor, mask: Tensor | None = None, keys: Sequence[Sequence[str]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what :meth:`update` would add, ``(projected [K], judged [K])``, and leave the state alone."""
        index = self.index(keys, scores.shape[0], scores.shape[2]).to(scores.device)
        return level_sums(scores, weights, mask, index, len(self.names), self.temperature)

    def update_from_sums(self, projected: Tensor, judged: Tensor) -> None:
        """Add sums, for callers that have already summed :meth:`sums` over the processes.

        Raises:
            ValueError: unless both are ``[K]``.
        """
        for name, value in (("projected", projected), ("judged", judged)):
            if value.shape != self.projected.shape:
                raise ValueError(f"`{name}` must be [K] = ({len(self.names)},), got {tuple(value.shape)}")
        self.projected += projected.to(self.projected)
        self.judged += judged.to(self.judged)
        # What torchmetrics does around `update`: drop the cached result, and know that there is one to compute.
        self._computed = None
        self._update_count += 1

    def compute(self) -> Tensor:
        """Return the levels, ``[K]`` in [0, 1], NaN for a name never judged."""
        return pool_levels(self.projected, self.judged)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(wrapped)
        def levels(*args: Any, **kwargs: Any) -> Tensor:
            # torchmetrics makes a scalar of a single value; K = 1 is a list of levels like any other.
            return torch.as_tensor(wrapped(*args, **kwargs)).reshape(-1)

        return levels

    def as_dict(self) -> dict[str, Tensor]:
        """Return :meth:`compute` by name, as scalar tensors."""
        return dict(zip(self.names, self.compute().unbind(), strict=True))
