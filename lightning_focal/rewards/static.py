"""Static aggregation: the baseline every other strategy is compared with."""

from __future__ import annotations

from lightning_focal.rewards.strategy import RewardStrategy

__all__ = ["StaticReward"]


class StaticReward(RewardStrategy):
    r"""Weighted sum with fixed weights, ``R_i = sum_c b_c m_ic s_ic / sum_c b_c m_ic`` (arXiv:2605.26579, the baselines).

    Saturation is measured and logged all the same; it changes nothing. It takes the arguments of :class:`RewardStrategy`.

    Example:
        >>> import torch
        >>> from lightning_focal.types import CriterionScores
        >>> scores = CriterionScores(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.ones(1, 2, 2, dtype=torch.bool),
        ...                          torch.tensor([[0.75, 0.25]]), (("short", "polite"),))
        >>> StaticReward(weights="prior").shape(scores).rewards
        tensor([[0.7500, 0.2500]])
    """
