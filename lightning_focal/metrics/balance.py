"""How evenly the criteria are met, as a torchmetrics metric."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_focal.functional import (
    CriterionSums,
    bottom_quartile_mean,
    criterion_sums,
    effective_number,
    gini,
    level_index,
    min_over_mean,
    saturated_mass,
    scatter_sums,
    spread_over_criteria,
    strict_completion,
    worst_criterion,
)

__all__ = ["CriterionBalance"]

_BY_NAME = (*(f.name for f in fields(CriterionSums)), "prompts", "weight", "saturation")
_COMPUTED_BY_NAME = frozenset(
    ("score", "group_std", "all_pass", "all_fail", "contrastive", "not_applicable", "failed", "weight", "saturation")
)
_OVERALL = ("complete", "valid", "weighted", "effective", "mass")


class CriterionBalance(Metric):
    """Per criterion and over criteria: who is met, who is left behind, where the weight goes.

    States are sums, so batches and processes pool exactly. The level of a criterion is its mean score.

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

    is_differentiable = False
    full_state_update = False

    def __init__(self, names: Sequence[str], threshold: float = 1.0, saturated: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must be unique, got {list(names)}")
        self.names = tuple(names)
        self.threshold, self.saturated = threshold, saturated
        for state in _BY_NAME:
            self.add_state(f"{state}_sum", torch.zeros(len(names), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)
        for state in _OVERALL:
            self.add_state(f"{state}_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum", persistent=True)

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
        p, _, c = scores.shape
        if keys is None:
            if c != len(self.names):
                raise ValueError(f"`scores` must have C = {len(self.names)} columns, one a name, where `keys` is None, got {c}")
            index = torch.arange(c, device=scores.device).expand(p, c)
        else:
            index = level_index(keys, self.names, c).to(scores.device)
        if (weights is None) != (saturation is None):
            raise ValueError("`weights` and `saturation` must be given together, got one of them")
        sums = criterion_sums(scores, mask, failed, index, len(self.names), self.threshold)
        for field in fields(sums):
            self._add(field.name, getattr(sums, field.name))
        complete, valid = strict_completion(scores, mask, self.threshold)
        self._add("complete", complete.sum())
        self._add("valid", valid.sum())
        if weights is not None and saturation is not None:
            self._add_weights(weights, saturation, index, valid.any(-1, keepdim=True) if mask is None else mask.any(1))

    def _add_weights(self, weights: Tensor, saturation: Tensor, index: Tensor, applies: Tensor) -> None:
        applies = applies.expand_as(weights)
        for name, values in (("prompts", torch.ones_like(weights)), ("weight", weights), ("saturation", saturation)):
            values = torch.where(applies, values, torch.zeros_like(values))
            self._add(name, scatter_sums(values, index, len(self.names)))
        self._add("weighted", (weights.sum(-1) > 0).sum())
        self._add("effective", effective_number(weights).sum())
        self._add("mass", saturated_mass(weights, saturation, self.saturated).sum())

    def _add(self, name: str, value: Tensor) -> None:
        state = getattr(self, f"{name}_sum")
        setattr(self, f"{name}_sum", state + value.to(state))

    def _sum(self, name: str) -> Tensor:
        state: Tensor = getattr(self, f"{name}_sum")
        return state

    def compute(self) -> dict[str, Tensor]:
        """Return everything, NaN where there is nothing to divide by.

        Returns:
            ``[K]`` each, means and shares over all that bears the name: ``score``, ``group_std``, ``all_pass``, ``all_fail``,
            ``contrastive``, ``not_applicable``, ``failed``, ``weight``, ``saturation``. Scalars: ``worst``, ``worst_index``
            (-1 = none), ``min_over_mean``, ``gini``, ``std``, ``bottom_quartile``, ``strict_completion``, ``effective_number``,
            ``saturated_mass``.
        """
        values = CriterionSums(**{f.name: self._sum(f.name) for f in fields(CriterionSums)}).shares()
        values["weight"] = self._sum("weight") / self._sum("prompts")
        values["saturation"] = self._sum("saturation") / self._sum("prompts")
        score = values["score"]
        values["worst"], values["worst_index"] = worst_criterion(score)
        values["min_over_mean"] = min_over_mean(score)
        values["gini"] = gini(score)
        values["std"] = spread_over_criteria(score)
        values["bottom_quartile"] = bottom_quartile_mean(score)
        values["strict_completion"] = self._sum("complete") / self._sum("valid")
        values["effective_number"] = self._sum("effective") / self._sum("weighted")
        values["saturated_mass"] = self._sum("mass") / self._sum("weighted")
        return values

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(wrapped)
        def values(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            # torchmetrics makes a scalar of a single value; K = 1 is a list of criteria like any other.
            computed: dict[str, Tensor] = wrapped(*args, **kwargs)
            return {name: value.reshape(-1) if name in _COMPUTED_BY_NAME else value for name, value in computed.items()}

        return values

    def worst_name(self) -> str | None:
        """Return the name of the criterion with the lowest mean score, None before any was judged."""
        position = int(self.compute()["worst_index"])
        return None if position < 0 else self.names[position]
