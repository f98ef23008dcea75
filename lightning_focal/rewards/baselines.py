"""What a researcher compares Focal Reward with: other weightings, reward rules and advantages, on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_focal.functional import (
    batch_moments,
    criterion_moments,
    dvao_advantage,
    gated_reward,
    gdpo_advantage,
    level_index,
    saw_weights,
    softmin_advantage,
    worst_of_reward,
)
from lightning_focal.rewards.stages import Advantage, RewardRule, Weighting, all_reduce_sum, distributed
from lightning_focal.types import CriterionScores

__all__ = ["DvaoAdvantage", "Gate", "GdpoAdvantage", "SawWeighting", "SoftMinAdvantage", "WorstOf"]


class SawWeighting(Weighting):
    """Weights in proportion to the coefficient of variation (arXiv:2606.07705), see :func:`~lightning_focal.functional.saw_weights`.

    The variation is taken by criterion key over the batch, all processes together.
    """

    def __init__(self) -> None:
        self._keys: tuple[str, ...] = ()

    def learn_keys(self, keys: Iterable[str]) -> None:
        """See :class:`Weighting`."""
        self._keys = tuple(keys)

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        # On several processes every one knows the same keys; on one, a batch may bring new ones.
        names = list(self._keys if distributed() else dict.fromkeys(key for keys in scores.keys for key in keys))
        index = level_index(scores.keys, names, scores.scores.shape[2]).to(base.device)
        moments = all_reduce_sum(criterion_moments(scores.scores, scores.mask, index, len(names)))
        return saw_weights(scores.scores, base, scores.mask, index, len(names), moments)


class WorstOf(RewardRule):
    """The score of the criterion a rollout meets least; weights decide nothing but which criteria count."""

    uses_weights = False

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        return worst_of_reward(scores.scores, weights, scores.mask)


class Gate(RewardRule):
    """Weighted mean times the scores of required criteria: without them nothing counts.

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


class GdpoAdvantage(Advantage):
    """Weighted sum of group z-scores, z-scored over the batch (GDPO), see :func:`~lightning_focal.functional.gdpo_advantage`.

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
        moments = all_reduce_sum(batch_moments(sums, valid))
        return gdpo_advantage(scores.scores, weights, scores.mask, epsilon=self.epsilon, moments=moments)


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
