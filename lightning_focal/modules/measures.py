"""What is logged of a rollout batch: sums that add up over processes, means once at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_focal.functional import scatter_sums, weighted_reward
from lightning_focal.types import CriterionScores, Rollouts, Shaped

__all__ = ["Means", "batch_measures", "key_means"]


SATURATED = 0.9
"""Level from which a criterion counts as saturated (ours)."""


class Means:
    """Weighted means by name. Every process adds the same names in the same order; one collective adds them up."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, where: Tensor | None = None) -> None:
        """Add the mean of ``values`` over ``where`` (bool, same shape; None = everywhere)."""
        values = values.detach().double()
        where = torch.ones_like(values, dtype=torch.bool) if where is None else where
        self.add_sums(name, torch.where(where, values, torch.zeros_like(values)).sum(), where.sum())

    def add_sums(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add a sum and the count it is divided by."""
        self._sums[name] = self._sums.get(name, 0.0) + total.detach().double()
        self._counts[name] = self._counts.get(name, 0.0) + count.detach().double()

    def merge(self, other: Means) -> Means:
        """Add another batch's sums and return self."""
        for name, total in other._sums.items():
            self.add_sums(name, total, other._counts[name])
        return self

    def compute(self, all_reduce_sum: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, float]:
        """Return the means in order, NaN for a count of 0; one transfer from the device."""
        if not self._sums:
            return {}
        table = torch.stack([torch.stack(list(self._sums.values())), torch.stack(list(self._counts.values()))])
        sums, counts = all_reduce_sum(table).cpu().tolist()
        return {name: (s / c if c else float("nan")) for name, s, c in zip(self._sums, sums, counts, strict=True)}


def key_means(scores: CriterionScores, values: Tensor, where: Tensor, index: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """Sums and counts by criterion key, each ``[K]``.

    Args:
        scores: names the keys.
        values: ``[P, C]``.
        where: ``[P, C]`` counts or bool.
        index: position of each key.
    """
    c = scores.scores.shape[2]
    rows = [[index.get(key, -1) for key in keys] + [-1] * (c - len(keys)) for keys in scores.keys]
    columns = torch.tensor(rows, dtype=torch.long, device=values.device).reshape(-1, c)
    where = where.to(values.dtype)
    return scatter_sums(values * where, columns, len(index)), scatter_sums(where, columns, len(index))


def batch_measures(
    stage: str, rollouts: Rollouts, scores: CriterionScores, shaped: Shaped, keys: Mapping[str, int]
) -> Means:
    """Collect everything that is logged of a batch but for losses and times; names are ``stage/area/name``."""
    means = Means()
    means.add(f"{stage}/reward/mean", shaped.rewards, shaped.valid)
    means.add(f"{stage}/reward/static", shaped.static, shaped.valid)
    means.add(f"{stage}/reward/prior", weighted_reward(scores.scores, scores.weights, scores.mask), shaped.valid)
    means.add(f"{stage}/reward/valid_share", shaped.valid.double())
    many = shaped.valid.sum(-1) > 1
    spread = torch.where(shaped.valid, shaped.rewards, torch.nan).nan_to_num(torch.nan)
    centred = (spread - spread.nanmean(-1, keepdim=True)).square().nansum(-1) / (shaped.valid.sum(-1) - 1).clamp_min(1)
    means.add(f"{stage}/reward/group_std", centred.sqrt(), many)
    c = scores.scores.shape[2]
    judged = scores.mask.sum(1)
    mean_score = torch.where(scores.mask, scores.scores, torch.zeros_like(scores.scores)).sum(1) / judged.clamp_min(1)
    for area, (total, count) in {
        "criterion/{}/score": key_means(scores, mean_score, judged, keys),
        "saturation/{}": key_means(scores, shaped.saturation, judged > 0, keys),
    }.items():
        for key, position in keys.items():
            means.add_sums(f"{stage}/{area.format(key)}", total[position], count[position])
    total, _ = key_means(scores, shaped.weights, torch.ones(len(scores.names), c, device=judged.device), keys)
    prompts = _prompts_by_key(scores, judged > 0, keys).to(total.device)
    for key, position in keys.items():
        means.add_sums(f"{stage}/weight/{key}", total[position], prompts[position])
    present = scores.present[:, None, :].expand_as(scores.mask)
    failed = torch.zeros_like(scores.mask) if scores.failed is None else scores.failed
    means.add(f"{stage}/judge/failure_rate", failed.double(), present)
    means.add(f"{stage}/judge/not_applicable_rate", (~scores.mask & ~failed).double(), present)
    strict = torch.where(scores.mask, scores.scores >= 1, torch.ones_like(scores.mask)).all(-1)
    means.add(f"{stage}/balance/strict_completion", strict.double(), shaped.valid)
    saturated = (shaped.saturation >= SATURATED) & (judged > 0)
    means.add(f"{stage}/balance/saturated_weight", (shaped.weights * saturated).sum(-1), judged.any(-1))
    means.add(f"{stage}/rollout/length", rollouts.lengths.double())
    means.add(f"{stage}/rollout/truncated", rollouts.truncated.double())
    return means


def _prompts_by_key(scores: CriterionScores, applies: Tensor, keys: Mapping[str, int]) -> Tensor:
    """``[K]`` number of prompts in which at least one criterion of the key applies."""
    counts = torch.zeros(len(keys), dtype=torch.float64)
    for row, there in zip(scores.keys, applies.tolist(), strict=True):
        for key in {key for key, yes in zip(row, there, strict=False) if yes and key in keys}:
            counts[keys[key]] += 1
    return counts
