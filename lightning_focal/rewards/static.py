"""Static aggregation: the baseline every other strategy is compared with."""

from __future__ import annotations

from lightning_focal.judges import Judge
from lightning_focal.rewards.base import RewardStrategy
from lightning_focal.rewards.base_weights import BaseWeights
from lightning_focal.rewards.sources import RubricScores, ScoreSource
from lightning_focal.rewards.stages import Advantage, RewardRule, Weighting

__all__ = ["StaticReward"]


class StaticReward(RewardStrategy):
    r"""Weighted sum with fixed weights, ``R_i = sum_c b_c m_ic s_ic / sum_c b_c m_ic`` (arXiv:2605.26579, the baselines).

    Saturation is measured and logged all the same; it changes nothing.

    Args:
        weights: ``prior`` = ``|points| / sum |points|`` of the rubric, ``uniform`` = equal over the applying criteria;
            a mapping = by criterion name, or by key.
        judge: who judges the rubrics; rules by default.
        temperature: of the projection that measures saturation.
        weighting: another rule for the weights in force, :class:`SawWeighting` say; the base weights by default.
        reward: folds criteria into one reward; a weighted sum by default.
        advantage: GRPO's by default.
        source: another source of scores in place of ``judge``; not both.

    Example:
        >>> import torch
        >>> from lightning_focal.types import CriterionScores
        >>> scores = CriterionScores(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.ones(1, 2, 2, dtype=torch.bool),
        ...                          torch.tensor([[0.75, 0.25]]), (("short", "polite"),))
        >>> StaticReward(weights="prior").shape(scores).rewards
        tensor([[0.7500, 0.2500]])
    """

    def __init__(
        self,
        weights: BaseWeights = "prior",
        judge: Judge | None = None,
        temperature: float = 1.0,
        reward: RewardRule | None = None,
        advantage: Advantage | None = None,
        source: ScoreSource | None = None,
        weighting: Weighting | None = None,
    ) -> None:
        if judge is not None and source is not None:
            raise ValueError("give `judge` or `source`, not both: a source brings its own judge")
        super().__init__(
            source or RubricScores(judge),
            weighting,
            weights=weights,
            temperature=temperature,
            reward=reward,
            advantage=advantage,
        )
