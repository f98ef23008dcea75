"""Named scores of responses, as other packages give them: as criteria here, and through a strategy for other trainers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lightning_focal import rewards
from lightning_focal.judges import Outcome, Verdict, verdicts_to_scores
from lightning_focal.rewards import RewardStrategy
from lightning_focal.rewards.strategy import draw_seeds
from lightning_focal.rubrics import Criterion, Rubric
from lightning_focal.types import CriterionScores

__all__ = ["Bounds", "ShapedColumns", "make_strategy", "named_scores", "shape_columns"]

Bounds = Mapping[str, tuple[float, float]]
"""Lowest and highest score by name; (0, 1) where a name is missing."""
Scores = Mapping[str, float | None]


def named_scores(
    given: Sequence[Sequence[Scores]],
    weights: Sequence[Mapping[str, float]],
    bounds: Bounds | None = None,
    reasons: Sequence[Sequence[str]] | None = None,
) -> CriterionScores:
    """Make criteria of named scores.

    Args:
        given: ``[P][G]`` scores by name; missing, None or NaN = the judgement failed, which is a mask.
        weights: ``[P]`` by name the weight in a weighted sum, of every criterion there is. Below 0 = a fault, which is turned round.
        bounds: lowest and highest score by name.
        reasons: ``[P][G]`` why a judgement failed.

    Raises:
        ValueError: for a score out of its bounds, bounds in the wrong order, or weights that are all 0.

    >>> named_scores([[{"right": 1, "words": 3}, {"right": None, "words": 0}]], [{"right": 1, "words": -0.5}], {"words": (0, 4)}).scores
    tensor([[[1.0000, 0.2500],
             [0.0000, 1.0000]]])
    """
    rubrics, verdicts = [], []
    for p, group in enumerate(given):
        spans = {name: (bounds or {}).get(name, (0.0, 1.0)) for name in weights[p]}
        criteria = [
            Criterion(name, name, w * (spans[name][1] - spans[name][0]), (), None, *spans[name]) for name, w in weights[p].items()
        ]
        rubrics.append(Rubric(tuple(criteria)))
        said = reasons[p] if reasons else [""] * len(group)
        verdicts.append([[_verdict(row.get(c.name), c, why) for c in criteria] for row, why in zip(group, said, strict=True)])
    return verdicts_to_scores(verdicts, rubrics)


def _number(score: float | None) -> float:
    return math.nan if score is None else float(score)


def _verdict(score: float | None, criterion: Criterion, why: str) -> Verdict:
    if score is None or math.isnan(score):
        return Verdict(Outcome.ERROR, reason=why or "no score")
    if not criterion.low <= score <= criterion.high:
        said = f"must be from {criterion.low:g} to {criterion.high:g}, got {score:g}"
        raise ValueError(f"scores of {criterion.name!r} {said}: write its lowest and highest score in `bounds`")
    return Verdict(Outcome.GRADED, float(score))


@dataclass(frozen=True)
class ShapedColumns:
    """What a strategy makes of ``N`` rollouts under ``C`` criteria.

    Args:
        rewards: ``[N]`` in the other trainer's scale: with static weights its own ``sum_c w_c s_c`` as long as all is judged. Where
            nothing was judged, the mean of the group.
        advantages: ``[N]`` the strategy's, 0 where nothing was judged.
        weights: ``[N, C]`` in force; rows sum to 1.
        saturation: ``[N, C]`` in [0, 1].
        valid: ``[N]`` bool, True = something was judged.
    """

    rewards: Tensor
    advantages: Tensor
    weights: Tensor
    saturation: Tensor
    valid: Tensor


def make_strategy(class_path: str = "FocalReward", **kwargs: Any) -> RewardStrategy:
    """Make a strategy by its name in :mod:`lightning_focal.rewards`, or by an import path.

    Raises:
        ValueError: where there is no such strategy, or it does not take these arguments.

    >>> make_strategy(gamma=1.0).weighting.gamma
    1.0
    """
    module, _, name = class_path.rpartition(".")
    try:
        made = getattr(import_module(module) if module else rewards, name)(**kwargs)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"`strategy`: {class_path!r} cannot be made: {error}") from error
    if not isinstance(made, RewardStrategy) or made.weighting.repeats:
        raise ValueError(f"`strategy` must be a reward strategy that judges each rollout once, got {class_path!r}")
    return made


def shape_columns(
    strategy: RewardStrategy,
    rows: Sequence[Scores],
    groups: Sequence[Hashable],
    weights: Mapping[str, float],
    bounds: Bounds | None = None,
) -> ShapedColumns:
    """Take one training batch through a strategy: it learns its levels, then makes rewards and advantages.

    Args:
        strategy: any; its own source of scores is not used.
        rows: ``[N]`` scores by name, see :func:`named_scores`.
        groups: ``[N]`` what each rollout answers; groups may differ in size.
        weights: by name the weight in the other trainer's sum.
        bounds: lowest and highest score by name.

    >>> from lightning_focal.rewards import FocalReward
    >>> rows = [{"right": 1, "words": 3}, {"right": 0, "words": 1}, {"right": 1}]
    >>> shape_columns(FocalReward(gamma=0.0), rows, "aab", {"right": 1, "words": -0.5}, {"words": (0, 4)}).rewards
    tensor([-0.5000, -0.5000,  1.0000])
    """
    numbers, places = {group: p for p, group in enumerate(dict.fromkeys(groups))}, list[tuple[int, int]]()
    sizes = [0] * len(numbers)
    for group in groups:
        places.append((numbers[group], sizes[numbers[group]]))
        sizes[numbers[group]] += 1
    i, j = torch.tensor(places).unbind(1)
    given = torch.full((len(numbers), max(sizes), len(weights)), torch.nan)
    given[i, j] = torch.tensor([[_number(row.get(name)) for name in weights] for row in rows])
    seeds = draw_seeds(strategy.batches, [*map(str, numbers)])
    scores = CriterionScores.of_rewards(given, [*weights], [*weights.values()], bounds, seeds=seeds)
    strategy.observe(scores)
    shaped = strategy.shape(scores)
    spans = [(w, *(bounds or {}).get(name, (0.0, 1.0))) for name, w in weights.items()]
    scale = torch.tensor([[abs(w) * (high - low), w * (low if w >= 0 else high)] for w, low, high in spans], dtype=torch.float64)
    total, shift = (scores.mask.any(1).double() @ scale)[..., None].unbind(1)
    back = torch.where(shaped.valid, shaped.rewards * total + shift, torch.nan)
    back = torch.where(shaped.valid, back, back.nanmean(1, keepdim=True).nan_to_num(0.0)).float()
    return ShapedColumns(back[i, j], shaped.advantages[i, j], shaped.weights[i], shaped.saturation[i], shaped.valid[i, j])
