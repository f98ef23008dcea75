"""What a researcher compares Focal Reward with: other weightings, reward rules and advantages, on the same inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional import (
    batch_moments,
    batch_std,
    diva_weights,
    dvao_advantage,
    gated_reward,
    gd2po_advantage,
    gdpo_advantage,
    item_response_reward,
    mo_grpo_weights,
    probit_difficulty,
    sa_mrpo_weights,
    saw_weights,
    soft_overlong_punishment,
    softmin_advantage,
    weighted_reward,
    worst_of_reward,
)
from lightning_focal.rewards.stages import Advantage, RewardRule, Weighting, all_reduce_sum
from lightning_focal.types import CriterionScores, Rollouts

__all__ = [
    "DivaWeighting",
    "DvaoAdvantage",
    "Gate",
    "Gd2poAdvantage",
    "GdpoAdvantage",
    "ItemResponse",
    "MoGrpoWeighting",
    "SaMrpoAdvantage",
    "SawWeighting",
    "SoftMinAdvantage",
    "SoftOverlong",
    "WorstOf",
]


class SawWeighting(Weighting):
    """Weights in proportion to the coefficient of variation (arXiv:2606.07705), see :func:`~lightning_focal.functional.saw_weights`.

    The variation is taken by criterion key over the batch, all processes together.
    """

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        index, moments = self.moments(scores)
        return saw_weights(scores.scores, base, scores.mask, index, moments.shape[1], moments)


class MoGrpoWeighting(Weighting):
    """Weights ``b_c / std_c`` in each group (MO-GRPO, arXiv:2509.22047), see :func:`~lightning_focal.functional.mo_grpo_weights`."""

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        return mo_grpo_weights(scores.scores, base, scores.mask)


class DivaWeighting(Weighting):
    """Weights ``V_c + epsilon`` in each group, points ignored (DIVA), see :func:`~lightning_focal.functional.diva_weights`.

    Args:
        epsilon: what a criterion without variance keeps, in units of score squared; > 0.
    """

    ignores_base = True

    def __init__(self, epsilon: float = 0.01) -> None:
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be > 0, got {epsilon}")
        self.epsilon = epsilon

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        return diva_weights(scores.scores, base, scores.mask, self.epsilon)


class SoftOverlong(RewardRule):
    """Weighted sum, less for a response that is too long, see :func:`~lightning_focal.functional.soft_overlong_punishment` (DAPO).

    The punishment is logged as ``reward/overlong``. A weighted sum lies in 0 to 1, the reward of the paper was -1 or 1: a factor of 0.5
    has its proportion.

    Args:
        max_completion_len: tokens from which on the punishment is whole, ``model.sampling.max_new_tokens`` usually.
        soft_punish_cache: tokens before that over which it grows.
        penalty_factor: what it is multiplied by; > 0.
    """

    def __init__(self, max_completion_len: int, soft_punish_cache: int, penalty_factor: float = 1.0) -> None:
        if not penalty_factor > 0:
            raise ValueError(f"`penalty_factor` must be > 0, got {penalty_factor}")
        soft_overlong_punishment(torch.zeros(0), max_completion_len, soft_punish_cache)  # they fit
        self.limits, self.penalty_factor = (max_completion_len, soft_punish_cache), penalty_factor

    def check_length(self, max_new_tokens: int) -> None:
        """See :class:`RewardRule`."""
        if max_new_tokens <= self.limits[0] - self.limits[1]:
            raise ValueError(
                f"`model.sampling.max_new_tokens` must be > {self.limits[0] - self.limits[1]}, from where {type(self).__name__} punishes, "
                f"got {max_new_tokens}: no response could be too long"
            )

    def measures(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """See :class:`RewardRule`."""
        return {"reward/overlong": self.penalty_factor * soft_overlong_punishment(rollouts.lengths, *self.limits)}

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        if "reward/overlong" not in scores.measures:
            raise ValueError(
                f"{type(self).__name__} needs lengths of rollouts, of which another trainer tells a strategy nothing"
            )
        rewards = weighted_reward(scores.scores, weights, scores.mask)
        return rewards + scores.measures["reward/overlong"].to(rewards)


class WorstOf(RewardRule):
    """The score of the criterion a rollout meets least. A weight decides only whether its criterion counts."""

    uses_weights = False

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        return worst_of_reward(scores.scores, weights, scores.mask)


class Gate(RewardRule):
    """Weighted mean times the scores of required criteria: a rollout that misses one of them earns 0.

    Args:
        required: names or tags of required criteria; a criterion that bears one of them is required.
    """

    def __init__(self, required: list[str]) -> None:
        if not required:
            raise ValueError("`required` must name at least one criterion or tag")
        self.required = set(required)

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        required = torch.zeros(weights.shape, dtype=torch.bool)
        for p, names in enumerate(scores.names):
            tags = scores.tags[p] if scores.tags else ((),) * len(names)
            needed = [bool(self.required & {name, *bears}) for name, bears in zip(names, tags, strict=True)]
            required[p, : len(names)] = torch.tensor(needed, dtype=torch.bool)
        return gated_reward(scores.scores, weights, scores.mask, required=required.to(weights.device))


class ItemResponse(RewardRule):
    """Ability of a rollout in a probit item-response model (RRT, arXiv:2609.35646).

    The difficulty of each criterion key is that of the batch, all processes together, or a given one;
    see :func:`~lightning_focal.functional.item_response_reward`.

    Args:
        pass_rates: by criterion name or key, the rate at which it is met, in (0, 1), which fixes its difficulty; None = of each batch.
    """

    def __init__(self, pass_rates: dict[str, float] | None = None) -> None:
        if bad := {name: rate for name, rate in (pass_rates or {}).items() if not 0 < rate < 1}:
            raise ValueError(f"`pass_rates` must be in (0, 1), got {bad}")
        self.pass_rates = pass_rates or {}

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        index, moments = self.moments(scores)
        difficulty = torch.nn.functional.pad(probit_difficulty(moments), (0, 1))[index].to(weights.dtype)  # -1 reads the 0
        if self.pass_rates:
            nan, width = float("nan"), weights.shape[1]
            named = [
                [self.pass_rates.get(name, self.pass_rates.get(key, nan)) for name, key in zip(names, keys, strict=True)]
                for names, keys in zip(scores.names, scores.keys, strict=True)
            ]
            rates = weights.new_tensor([row + [nan] * (width - len(row)) for row in named]).reshape(weights.shape)
            given = -(2**0.5) * torch.special.ndtri(rates)
            difficulty = torch.where(rates.isnan(), difficulty, given)
        return item_response_reward(scores.scores, weights, scores.mask, difficulty=difficulty)


class GdpoAdvantage(Advantage):
    """Weighted sum of group z-scores, z-scored over the batch (GDPO), see :func:`~lightning_focal.functional.gdpo_advantage`.

    Any weighting may stand in front of it; with focal weights it is standardised Focal, see :class:`StandardisedFocalReward`.

    Args:
        batch_scale: divide by the standard deviation over the batch, all processes together.
        epsilon: added to standard deviations.
    """

    uses_reward = False

    def __init__(self, batch_scale: bool = True, epsilon: float = 1e-6) -> None:
        self.batch_scale, self.epsilon = batch_scale, epsilon

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        sums = gdpo_advantage(scores.scores, weights, scores.mask, epsilon=self.epsilon, batch_scale=False)
        if not self.batch_scale:
            return sums
        _, std = batch_std(all_reduce_sum(batch_moments(sums, valid)))
        return sums / (std.to(sums.dtype) + self.epsilon)


class SaMrpoAdvantage(GdpoAdvantage):
    """GDPO with weights ``b_c (1 - batch mean)^gamma`` that need not sum to 1 (SA-MRPO).

    The mean is taken by criterion key, all processes together. The weights of the strategy stand for ``b``;
    see :func:`~lightning_focal.functional.sa_mrpo_weights`.

    Args:
        gamma: 0 = GDPO; the paper found 0.5 best of 0 to 1.
        epsilon: added to standard deviations.
    """

    def __init__(self, gamma: float = 0.5, epsilon: float = 1e-6) -> None:
        if not gamma >= 0:
            raise ValueError(f"`gamma` must be >= 0, got {gamma}")
        super().__init__(epsilon=epsilon)
        self.gamma = gamma

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        index, moments = self.moments(scores)
        moved = sa_mrpo_weights(scores.scores, weights, scores.mask, self.gamma, index, moments.shape[1], moments)
        return super().__call__(scores, moved, rewards, valid)


class Gd2poAdvantage(Advantage):
    """GDPO without rollouts on which the criteria disagree (GD2PO), see :func:`~lightning_focal.functional.gd2po_advantage`.

    Args:
        agreement: least ``|sum_c A_c| / sum_c |A_c|`` of a rollout that is kept; 0 = GDPO.
        epsilon: added to standard deviations.
    """

    uses_reward = False

    def __init__(self, agreement: float = 0.2, epsilon: float = 1e-6) -> None:
        if not 0 <= agreement <= 1:
            raise ValueError(f"`agreement` must be in [0, 1], got {agreement}")
        self.agreement, self.epsilon = agreement, epsilon

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        sums = gdpo_advantage(scores.scores, weights, scores.mask, epsilon=self.epsilon, batch_scale=False)
        moments = all_reduce_sum(batch_moments(sums, valid))
        return gd2po_advantage(scores.scores, weights, scores.mask, self.agreement, self.epsilon, moments)


class DvaoAdvantage(Advantage):
    """Group z-scores weighted by how much each criterion varies (arXiv:2605.25604); with focal weights it is "Focal + DVAO".

    Args:
        epsilon: a group whose weighted standard deviations sum to no more gets 0.
    """

    uses_reward = False

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = epsilon

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        return dvao_advantage(scores.scores, weights, scores.mask, epsilon=self.epsilon)


class SoftMinAdvantage(Advantage):
    """Soft minimum of group z-scores (RVPO, arXiv:2605.05750), see :func:`~lightning_focal.functional.softmin_advantage`.

    Args:
        k: sharpness, > 0; towards 0 the mean, towards infinity the minimum.
        weighted: weigh the criteria inside the mean; the paper does not, so weights then decide nothing.
        epsilon: added to standard deviations.
    """

    uses_reward = False

    def __init__(self, k: float = 1.0, weighted: bool = False, epsilon: float = 1e-6) -> None:
        if not k > 0:
            raise ValueError(f"`k` must be > 0, got {k}")
        self.k, self.weighted, self.epsilon = k, weighted, epsilon
        self.uses_weights = weighted

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        return softmin_advantage(scores.scores, weights, scores.mask, k=self.k, epsilon=self.epsilon, weighted=self.weighted)
