"""What is logged of a rollout batch: sums that add up over batches and processes, means once at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_focal.environments.tools import ERROR
from lightning_focal.functional import (
    compare_ranks,
    group_spread,
    length_correlation,
    length_weight,
    level_index,
    projection_tilt,
    scatter_sums,
    weighted_reward,
)
from lightning_focal.keys import log_key
from lightning_focal.metrics import CriterionBalance
from lightning_focal.thoughts import is_empty
from lightning_focal.types import CriterionScores, Rollouts, Shaped

__all__ = ["BatchMeasures", "Means", "add_thoughts"]

_PER_CRITERION = ("score", "group_std", "all_pass", "all_fail", "contrastive", "not_applicable", "failed")
_PER_KEY = {name: f"criterion/{{}}/{name}" for name in _PER_CRITERION} | {"saturation": "saturation/{}", "weight": "weight/{}"}
_OVERALL = ("worst", "min_over_mean", "gini", "std", "bottom_quartile", "strict_completion", "effective_number", "saturated_mass")


class Means:
    """Means by name, as sums and counts. Every process adds the same names in the same order; one collective adds them up."""

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

    def compute(self, all_reduce_sum: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, float]:
        """Return the means in order, NaN for a count of 0; one transfer from the device."""
        if not self._sums:
            return {}
        table = torch.stack([torch.stack(list(self._sums.values())), torch.stack(list(self._counts.values()))])
        sums, counts = all_reduce_sum(table).cpu().tolist()
        return {name: (s / c if c else float("nan")) for name, s, c in zip(self._sums, sums, counts, strict=True)}


def add_thoughts(means: Means, stage: str, rollouts: Rollouts) -> None:
    """Add ``<stage>/response/thought_tokens``, tokens of thoughts a response, and ``.../unanswered``, the share without an answer."""
    device = rollouts.response_ids.device
    empty = torch.tensor([[is_empty(answer) for answer in group] for group in rollouts.answers], dtype=torch.bool, device=device)
    means.add(f"{stage}/response/unanswered", empty)
    tokens = rollouts.thought_tokens
    known = torch.full_like(rollouts.truncated, tokens is not None)
    means.add(f"{stage}/response/thought_tokens", torch.zeros_like(rollouts.lengths) if tokens is None else tokens, known)


def add_turns(means: Means, stage: str, rollouts: Rollouts) -> None:
    """Add ``<stage>/rollout/turns``, turns of the policy, ``.../tool_calls``, both a rollout, and ``.../tool_errors``, the share of calls."""
    said = [message for group in rollouts.trajectories or () for path in group for message in path]
    turns, results = ([m["content"] for m in said if m["role"] == role] for role in ("assistant", "tool"))
    failed = sum(result.startswith(ERROR) for result in results)
    sums = {"turns": (len(turns), rollouts.truncated.numel()), "tool_calls": (len(results), rollouts.truncated.numel())}
    for name, counts in (sums | {"tool_errors": (failed, len(results))}).items():
        means.add_sums(f"{stage}/rollout/{name}", *torch.tensor(counts, device=rollouts.response_ids.device))


class BatchMeasures:
    """Rewards, lengths, the source's own measures and the balance over criteria of one batch or many.

    Args:
        stage: first part of every name, ``stage/area/name``.
        keys: the keys criteria are logged under, in order.
        device: where sums are kept.
        names: criterion names to follow one by one beside the keys, under ``stage/name/<name>/...``; ``others`` stands for those that
            are not among them; none = by key alone.
    """

    def __init__(self, stage: str, keys: Iterable[str], device: torch.device | str = "cpu", names: Sequence[str] = ()) -> None:
        self.stage, self.device = stage, torch.device(device)
        self.means = Means()
        self.balance = CriterionBalance(list(keys), sync_on_compute=False).to(device)
        self.by_name = CriterionBalance(list(names), sync_on_compute=False).to(device) if names else None
        self._watched: dict[str, Tensor] = {}

    def add(self, rollouts: Rollouts, scores: CriterionScores, shaped: Shaped) -> BatchMeasures:
        """Add a batch and return self; responses of an older policy are left out."""
        if rollouts.versions is not None:
            own = rollouts.own.to(scores.mask.device)
            scores = replace(scores, mask=scores.mask & own[..., None])
            shaped = replace(shaped, valid=shaped.valid & own)
        means, stage, valid = self.means, self.stage, shaped.valid
        means.add(f"{stage}/reward/mean", shaped.rewards, valid)
        means.add(f"{stage}/reward/static", shaped.static, valid)
        prior = weighted_reward(scores.scores, scores.weights, scores.mask)
        means.add(f"{stage}/reward/prior", prior, scores.judged(scores.weights))
        _, spread = group_spread(shaped.rewards[..., None], valid[..., None])
        means.add(f"{stage}/reward/group_std", spread[:, 0], valid.sum(-1) > 1)
        means.add(f"{stage}/reward/valid_share", valid.double())
        present = scores.present[:, None, :].expand_as(scores.mask)
        failed = torch.zeros_like(scores.mask) if scores.failed is None else scores.failed
        means.add(f"{stage}/judge/failure_rate", failed.double(), present)
        means.add(f"{stage}/judge/not_applicable_rate", (~scores.mask & ~failed).double(), present)
        means.add(f"{stage}/rollout/length", rollouts.lengths.double())
        means.add(f"{stage}/rollout/truncated", rollouts.truncated.double())
        add_thoughts(means, stage, rollouts)
        if rollouts.trajectories is not None:
            add_turns(means, stage, rollouts)
        for name, values in scores.measures.items():
            values = values.to(self.device).double()
            means.add(f"{stage}/{name}", values, ~values.isnan())
        given = (failed, shaped.weights, shaped.saturation)
        self.balance.update(scores.scores, scores.mask, scores.log_keys, *given)
        index = level_index(scores.log_keys, self.balance.names, scores.mask.shape[2]).to(scores.mask.device)
        watched = {f"{name}/{{}}": values for name, values in shaped.measures.items()}
        watched |= self._add_diagnostics(rollouts, scores, shaped)
        for name, values in watched.items():
            parts = [scatter_sums(x, index, len(self.balance.names)) for x in (values.nan_to_num(), ~values.isnan())]
            self._watched[name] = self._watched.get(name, 0.0) + torch.stack(parts).to(self.device)
        if self.by_name is not None:
            known = set(self.by_name.names)
            names = [[name if name in known else "others" for name in row] for row in scores.names]
            self.by_name.update(scores.scores, scores.mask, names, *given)
        return self

    def _add_diagnostics(self, rollouts: Rollouts, scores: CriterionScores, shaped: Shaped) -> dict[str, Tensor]:
        """Add what theory asks of the weights; return what is kept by criterion, ``[P, C]`` each, NaN = not known."""
        means, stage, mask = self.means, self.stage, scores.mask
        _, std = group_spread(scores.scores, mask)
        with_length = length_correlation(scores.scores, rollouts.lengths.to(mask.device), mask)
        means.add(f"{stage}/balance/tilt", *projection_tilt(shaped.saturation, scores.scores, mask))
        means.add(f"{stage}/balance/length_weight", length_weight(shaped.weights, with_length), shaped.valid.any(1))
        ranks = compare_ranks(shaped.static, shaped.rewards, shaped.valid)
        for name, per in (("flipped", "pairs"), ("kendall_distance", "pairs"), ("new_best", "groups")):
            means.add_sums(f"{stage}/order/{name}", ranks[name], ranks[per])
        watched = {"variance": torch.where(mask.sum(1) > 1, std.square(), torch.nan), "length_correlation": with_length}
        return {f"criterion/{{}}/{name}": values for name, values in watched.items()}

    def compute(self, all_reduce_sum: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, float]:
        """Return everything by the name it is logged under, NaN where nothing was seen; over all processes."""
        logged = self.means.compute(all_reduce_sum)
        values = self.balance.over_processes(all_reduce_sum)
        for name, pattern in _PER_KEY.items():
            for key, value in zip(self.balance.names, values[name].tolist(), strict=True):
                logged[f"{self.stage}/{pattern.format(key)}"] = value
        if self._watched:
            sums, counts = all_reduce_sum(torch.stack(list(self._watched.values()), 1)).cpu()
            for name, row in zip(self._watched, (sums / counts).tolist(), strict=True):  # 0 / 0 is NaN
                logged |= {f"{self.stage}/{name.format(key)}": value for key, value in zip(self.balance.names, row, strict=True)}
        for name in _OVERALL:
            logged[f"{self.stage}/balance/{'saturated_weight' if name == 'saturated_mass' else name}"] = float(values[name])
        logged[f"{self.stage}/balance/mean"] = float(values["score"].nanmean())
        if self.by_name is not None:
            values = self.by_name.over_processes(all_reduce_sum)
            for name in ("score", "saturation", "weight"):
                for criterion, value in zip(self.by_name.names, values[name].tolist(), strict=True):
                    logged[f"{self.stage}/name/{log_key(criterion, ())}/{name}"] = value
        return logged
