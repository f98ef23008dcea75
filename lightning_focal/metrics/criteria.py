"""Saturation and balance of named criteria as torchmetrics metrics. Their states are sums, so batches and processes pool exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.plot import plot_single_or_multi_val

from lightning_focal.functional import (
    CriterionSums,
    bottom_quartile_mean,
    criterion_sums,
    effective_number,
    gini,
    level_index,
    level_sums,
    min_over_mean,
    pool_levels,
    saturated_mass,
    scatter_sums,
    spread_over_criteria,
    strict_completion,
    worst_criterion,
)

__all__ = ["CriterionBalance", "CriterionSaturation"]

_COUNTED = tuple(field.name for field in fields(CriterionSums))
_BY_NAME = (*_COUNTED, "prompts", "weight", "saturation")
_OVERALL = ("complete", "valid", "weighted", "effective", "mass")


class _NamedMetric(Metric):
    """A metric over ``K`` names."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must be unique, got {list(names)}")
        self.names = tuple(names)

    def add_sums(self, name: str, *shape: int) -> None:
        """Add a state of zeros. It is float64: a sum over a long training outgrows the digits of float32."""
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum", persistent=True)

    def index(self, scores: Tensor, keys: Sequence[Sequence[str]] | None) -> Tensor:
        """Return ``[P, C]`` int64, the position in ``names`` of each criterion, -1 = padding; ``keys`` None = columns are names."""
        p, _, c = scores.shape
        if keys is not None:
            return level_index(keys, self.names, c).to(scores.device)
        if c != len(self.names):
            raise ValueError(f"`scores` must have C = {len(self.names)} columns, one a name, where `keys` is None, got {c}")
        return torch.arange(c, device=scores.device).expand(p, c)


def _with_lists(compute: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    """Keep results by name ``[K]`` also for ``K = 1``, of which torchmetrics makes scalars."""

    @functools.wraps(compute)
    def computed() -> dict[str, Tensor]:
        return {name: value if name in _SCALARS else value.reshape(-1) for name, value in compute().items()}

    return computed


class CriterionSaturation(_NamedMetric):
    """Saturation level of each criterion name, pooled over groups, batches and processes.

    ``sigma_k = sum q m s / sum q m`` over everything seen under name ``k``, with the rollout weights ``q`` of
    :func:`~lightning_focal.functional.inverse_reward_projection` (arXiv:2605.26579; public re-implementation; pooling: ours).

    Args:
        names: the level names, ``K`` of them (a criterion's own name, or its axis).
        temperature: > 0, in units of reward.
        **kwargs: passed on to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if a name occurs twice.

    >>> saturation = CriterionSaturation(["short", "polite"])
    >>> saturation.update(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.tensor([[0.5, 0.5]]))
    >>> saturation.compute()
    {'short': tensor(1., dtype=torch.float64), 'polite': tensor(0.6225, dtype=torch.float64)}
    """

    higher_is_better = True
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    projected: Tensor
    judged: Tensor

    def __init__(self, names: Sequence[str], temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {temperature}")
        self.temperature = temperature
        self.add_sums("projected", len(names))
        self.add_sums("judged", len(names))

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
        index = self.index(scores, keys)
        projected, judged = level_sums(scores, weights, mask, index, len(self.names), self.temperature)
        self.projected += projected.to(self.projected)
        self.judged += judged.to(self.judged)

    def compute(self) -> dict[str, Tensor]:
        """Return the level of each name, a scalar in [0, 1]; NaN for a name never judged."""
        return dict(zip(self.names, pool_levels(self.projected, self.judged).unbind(), strict=True))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the levels, as torchmetrics' own metrics do; returns figure and axes. ModuleNotFoundError without matplotlib.

        Args:
            val: a result of :meth:`compute` or of calling the metric, or a list of them, one a step; None = :meth:`compute` now.
            ax: axes to draw into; None = new ones.
        """
        return plot_single_or_multi_val(
            self.compute() if val is None else val,
            ax=ax,
            higher_is_better=self.higher_is_better,
            lower_bound=self.plot_lower_bound,
            upper_bound=self.plot_upper_bound,
            name=type(self).__name__,
        )


class CriterionBalance(_NamedMetric):
    """How well each criterion is met, how even the criteria are, and which criteria the weights are on.

    The level of a criterion is its mean score.

    Args:
        names: the criterion names, ``K`` of them (a criterion's own name, or its axis).
        threshold: a criterion is met by a score of at least this.
        saturated: from which saturation on a criterion is satisfied.
        **kwargs: passed on to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if a name occurs twice.

    >>> balance = CriterionBalance(["short", "polite"])
    >>> balance.update(torch.tensor([[[1.0, 0.0], [1.0, 0.5]]]))
    >>> values = balance.compute()
    >>> values["score"], values["worst"], balance.worst_name()
    (tensor([1.0000, 0.2500], dtype=torch.float64), tensor(0.2500, dtype=torch.float64), 'polite')
    """

    by_name: Tensor
    overall: Tensor

    def __init__(self, names: Sequence[str], threshold: float = 1.0, saturated: float = 0.9, **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        self.threshold, self.saturated = threshold, saturated
        self.add_sums("by_name", len(_BY_NAME), len(names))
        self.add_sums("overall", len(_OVERALL))
        self.compute = _with_lists(self.compute)  # type: ignore[method-assign]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # a copy: torchmetrics makes its own `compute` anew
        self.compute = _with_lists(self.compute)  # type: ignore[method-assign]

    def update(
        self,
        scores: Tensor,
        mask: Tensor | None = None,
        keys: Sequence[Sequence[str]] | None = None,
        failed: Tensor | None = None,
        weights: Tensor | None = None,
        saturation: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            scores: ``[P, G, C]`` in [0, 1].
            mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
            keys: ``[P][<=C]`` the name of each criterion; None = the columns are ``names``.
            failed: ``[P, G, C]`` bool, True = the judge failed here; None = nowhere.
            weights: ``[P, C]`` weights in force, rows summing to 1; given together with ``saturation`` or not at all.
            saturation: ``[P, C]`` in [0, 1].

        Raises:
            ValueError: on an unknown key, shapes that do not fit, or one of ``weights`` and ``saturation`` without the other.
        """
        if (weights is None) != (saturation is None):
            raise ValueError("`weights` and `saturation` must be given together, got one of them")
        index, n = self.index(scores, keys), len(self.names)
        sums = criterion_sums(scores, mask, failed, index, n, self.threshold)
        by_name = [getattr(sums, name) for name in _COUNTED]
        overall = [x.sum() for x in strict_completion(scores, mask, self.threshold)]
        if weights is not None and saturation is not None:
            applies = torch.ones_like(scores, dtype=torch.bool).any(1) if mask is None else mask.any(1)
            for values in (torch.ones_like(weights), weights, saturation):
                by_name.append(scatter_sums(values.masked_fill(~applies, 0), index, n))
            overall += [(weights.sum(-1) > 0).sum(), effective_number(weights).sum()]
            overall.append(saturated_mass(weights, saturation, self.saturated).sum())
        self.by_name[: len(by_name)] += torch.stack(by_name).to(self.by_name)
        self.overall[: len(overall)] += torch.stack([x.to(self.overall) for x in overall])

    def compute(self) -> dict[str, Tensor]:
        """Return everything, NaN where there is nothing to divide by.

        Returns:
            ``[K]`` each, means and shares over all that bears the name: ``score``, ``group_std``, ``all_pass``, ``all_fail``,
            ``contrastive``, ``not_applicable``, ``failed``, ``weight``, ``saturation``. Scalars: ``worst``, ``worst_index``
            (-1 = none), ``min_over_mean``, ``gini``, ``std``, ``bottom_quartile``, ``strict_completion``, ``effective_number``,
            ``saturated_mass``.
        """
        return _shares(self.by_name, self.overall)

    def over_processes(self, all_reduce_sum: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return what :meth:`compute` returns, over the sums of all processes: one call of ``all_reduce_sum`` for all states."""
        flat = all_reduce_sum(torch.cat([self.by_name.reshape(-1), self.overall]))
        return _shares(flat[: self.by_name.numel()].view_as(self.by_name), flat[self.by_name.numel() :])

    def worst_name(self) -> str | None:
        """Return the name of the criterion with the lowest mean score, None before any was judged."""
        position = int(self.compute()["worst_index"])
        return None if position < 0 else self.names[position]


def _shares(by_name: Tensor, overall: Tensor) -> dict[str, Tensor]:
    row, total = dict(zip(_BY_NAME, by_name, strict=True)), dict(zip(_OVERALL, overall, strict=True))
    values = CriterionSums(**{name: row[name] for name in _COUNTED}).shares()
    values["weight"], values["saturation"] = row["weight"] / row["prompts"], row["saturation"] / row["prompts"]
    worst, worst_index = worst_criterion(values["score"])
    scalars = [worst, worst_index, *(over(values["score"]) for over in _OVER_CRITERIA.values())]
    scalars += [total["complete"] / total["valid"], total["effective"] / total["weighted"], total["mass"] / total["weighted"]]
    return values | dict(zip(_SCALARS, scalars, strict=True))


_OVER_CRITERIA = {
    "min_over_mean": min_over_mean,
    "gini": gini,
    "std": spread_over_criteria,
    "bottom_quartile": bottom_quartile_mean,
}
_SCALARS = ("worst", "worst_index", *_OVER_CRITERIA, "strict_completion", "effective_number", "saturated_mass")
