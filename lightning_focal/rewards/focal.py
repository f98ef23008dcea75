"""Focal Reward (arXiv:2605.26579)."""

from __future__ import annotations

from typing import Literal

from lightning_focal.judges import Judge
from lightning_focal.rewards.baselines import GdpoAdvantage
from lightning_focal.rewards.learning import Informedness, refined
from lightning_focal.rewards.sources import ScoreSource
from lightning_focal.rewards.stages import Advantage, BaseWeights, FocalWeighting, RewardRule
from lightning_focal.rewards.strategy import RewardStrategy

__all__ = ["FocalReward", "StandardisedFocalReward"]


class FocalReward(RewardStrategy):
    r"""Moves weight from saturated criteria to those with room.

    Saturation ``sigma_c = sum_i q_i m_ic s_ic / sum_i q_i m_ic`` with ``q = softmax(R / tau)`` over the group, difficulty
    ``d_c = 1 - sigma_c + eps``, weights ``w_c = b_c d_c^gamma / sum_k b_k d_k^gamma`` (arXiv:2605.26579 names the parts; the
    formulas are those of a public re-implementation). The calibrated reward uses ``w`` in place of ``b``; nothing else changes.
    These weights are the gradient of ``-sum_c b_c (1 - sigma_c + eps)^(gamma + 1) / (gamma + 1)``: a concave welfare of the criteria.

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
        mix: share of the focal weights, the rest are base weights; 0.7 is the public re-implementation's remedy for weight that runs away.
        informedness: weigh by how far the judge can be trusted, see :class:`InformedWeighting`: a share of rollouts to judge twice, a
            mapping by criterion, or a file of ``lightning_focal judge --agreement --json``; None = trust it alike.
        patience: batches after which a criterion that did not move gives its extra weight back, see :class:`PatientWeighting`; 0 = never.
        held_out_judge: a second judge for held-out prompts alone, see :class:`RewardStrategy`.

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
        mix: float = 1.0,
        informedness: Informedness | None = None,
        patience: int = 0,
        held_out_judge: Judge | None = None,
    ) -> None:
        super().__init__(
            source,
            refined(FocalWeighting(gamma, epsilon, bounds, mix), informedness, patience),
            judge=judge,
            weights=weights,
            temperature=temperature,
            scope=scope,
            decay=decay,
            warmup=warmup,
            reward=reward,
            advantage=advantage,
            held_out_judge=held_out_judge,
        )


class StandardisedFocalReward(FocalReward):
    r"""Focal weights on standardised scores: ``A_i = sum_c w_c z_ic``, then a z-score over the batch (ours).

    ``z_ic`` is the z-score of criterion ``c`` in its group, so that the few successes on a rare criterion count as much as the many on a
    common one; ``w_c`` are those of :class:`FocalReward`, at the level of the batch and with a small ``gamma``. It is
    :class:`FocalReward` with :class:`GdpoAdvantage` and other defaults.

    Args:
        gamma: how strongly weight moves; 0 is GDPO.
        scope: where saturation is measured: ``group``, ``batch`` or ``running``, see :class:`RewardStrategy`.

    The other arguments are those of :class:`FocalReward`; ``reward`` and ``advantage`` are settled here.

    Example:
        >>> import torch
        >>> from lightning_focal.types import CriterionScores
        >>> scores = CriterionScores(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]]), torch.ones(1, 4, 2) > 0,
        ...                          torch.tensor([[0.5, 0.5]]), (("short", "polite"),))
        >>> StandardisedFocalReward().shape(scores).advantages
        tensor([[-0.1794, -0.1794, -1.0188,  1.3776]])
    """

    def __init__(
        self,
        gamma: float = 0.5,
        temperature: float = 1.0,
        epsilon: float = 0.05,
        bounds: tuple[float, float] | None = None,
        weights: BaseWeights = "prior",
        judge: Judge | None = None,
        scope: Literal["group", "batch", "running"] = "batch",
        decay: float = 0.9,
        warmup: int = 0,
        source: ScoreSource | None = None,
        mix: float = 1.0,
        informedness: Informedness | None = None,
        patience: int = 0,
        held_out_judge: Judge | None = None,
    ) -> None:
        super().__init__(
            gamma,
            temperature,
            epsilon,
            bounds,
            weights,
            judge,
            scope,
            decay,
            warmup,
            advantage=GdpoAdvantage(),
            source=source,
            mix=mix,
            informedness=informedness,
            patience=patience,
            held_out_judge=held_out_judge,
        )
