"""Focal Reward (arXiv:2605.26579)."""

from __future__ import annotations

from typing import Literal

from lightning_focal.judges import Judge
from lightning_focal.rewards.sources import ScoreSource
from lightning_focal.rewards.stages import Advantage, BaseWeights, FocalWeighting, RewardRule
from lightning_focal.rewards.strategy import RewardStrategy

__all__ = ["FocalReward"]


class FocalReward(RewardStrategy):
    r"""Moves weight from saturated criteria to those with room.

    Saturation ``sigma_c = sum_i q_i m_ic s_ic / sum_i q_i m_ic`` with ``q = softmax(R / tau)`` over the group, difficulty
    ``d_c = 1 - sigma_c + eps``, weights ``w_c = b_c d_c^gamma / sum_k b_k d_k^gamma`` (arXiv:2605.26579 names the parts; the
    formulas are those of a public re-implementation). The calibrated reward uses ``w`` in place of ``b``; nothing else changes.

    Args:
        gamma: how strongly weight moves; 0 is static. 3 is the public re-implementation's choice; the shipped configs use 1.
        temperature: ``tau``, in units of reward (0 to 1); large = group mean, small = best rollout.
        epsilon: ``eps``, floor of the difficulty.
        bounds: lowest and highest weight of a criterion, by Euclidean projection onto the simplex; None = off. See
            :class:`FocalWeighting`.
        weights: base weights ``b``: ``prior``, ``uniform``, or a mapping of criterion names (or keys) to weights.
        judge: who judges the rubrics; rules by default.
        scope: ``group``, ``batch`` or ``running``, see :class:`RewardStrategy`.
        decay: of the running level.
        warmup: training batches with static weights.
        reward: folds criteria into one reward; a weighted sum by default.
        advantage: GRPO's by default.
        source: another source of scores in place of ``judge``; not both.

    Example:
        >>> import torch
        >>> from lightning_focal.types import CriterionScores
        >>> scores = CriterionScores(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.ones(1, 2, 2, dtype=torch.bool),
        ...                          torch.tensor([[0.5, 0.5]]), (("short", "polite"),))
        >>> FocalReward(gamma=1.0).shape(scores).weights  # "short" is met by every rollout
        tensor([[0.1047, 0.8953]])
    """

    def __init__(
        self,
        gamma: float = 3.0,
        temperature: float = 1.0,
        epsilon: float = 0.05,
        bounds: tuple[float, float] | None = None,
        weights: BaseWeights = "prior",
        judge: Judge | None = None,
        scope: Literal["group", "batch", "running"] = "group",
        decay: float = 0.9,
        warmup: int = 0,
        reward: RewardRule | None = None,
        advantage: Advantage | None = None,
        source: ScoreSource | None = None,
    ) -> None:
        super().__init__(
            source,
            FocalWeighting(gamma, epsilon, bounds),
            judge=judge,
            weights=weights,
            temperature=temperature,
            scope=scope,
            decay=decay,
            warmup=warmup,
            reward=reward,
            advantage=advantage,
        )
