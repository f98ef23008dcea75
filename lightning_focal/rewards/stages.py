"""The three stages between criterion scores and advantages: weights -> reward -> advantage, each replaceable from the YAML."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

from torch import Tensor

from lightning_focal.functional import batch_moments, focal_weights, group_advantage, rloo_advantage, weighted_reward
from lightning_focal.functional.choices import expect_choice
from lightning_focal.rewards.collective import all_reduce_sum
from lightning_focal.types import CriterionScores

__all__ = [
    "Advantage",
    "FocalWeighting",
    "GroupAdvantage",
    "RewardRule",
    "RlooAdvantage",
    "StaticWeighting",
    "WeightedSum",
    "Weighting",
    "check_stages",
]


class Weighting(ABC):
    """Turns base weights into the weights in force. Stateless: what it may know of the past is the saturation."""

    def learn_keys(self, keys: Iterable[str]) -> None:
        """Learn every criterion key there is, the same list on every process; called again when there are more."""

    @abstractmethod
    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """Return weights ``[P, C]``: rows sum to 1 over applying criteria, 0 elsewhere.

        Args:
            scores: the batch.
            saturation: ``[P, C]`` in [0, 1].
            base: ``[P, C]`` base weights, 0 where a criterion does not apply.
        """


class StaticWeighting(Weighting):
    """The base weights, unchanged."""

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        return base


class FocalWeighting(Weighting):
    """Moves weight from saturated criteria to those with room, see :func:`~lightning_focal.functional.focal_weights`.

    Args:
        gamma: how strongly; 0 is static.
        epsilon: floor of the difficulty ``1 - saturation + epsilon``.
        bounds: lowest and highest weight, or None.
        bounds_relative: True reads the bounds as multiples of the base weights, False as weights; None = as multiples in a batch
            whose rubrics differ in length (ours). Say which where only some batches are like that.
    """

    def __init__(
        self,
        gamma: float = 3.0,
        epsilon: float = 0.05,
        bounds: tuple[float, float] | None = None,
        bounds_relative: bool | None = None,
    ) -> None:
        if not gamma >= 0:
            raise ValueError(f"`gamma` must be >= 0, got {gamma}")
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be > 0, got {epsilon}")
        if bounds is not None and not 0 <= bounds[0] <= bounds[1]:
            raise ValueError(f"`bounds` must be (lowest, highest) with 0 <= lowest <= highest, got {tuple(bounds)}")
        if bounds is not None and bounds_relative and not bounds[0] <= 1 <= bounds[1]:
            raise ValueError(f"`bounds` as multiples of the base weights must hold 1 between them, got {tuple(bounds)}")
        self.gamma, self.epsilon, self.bounds, self.bounds_relative = gamma, epsilon, bounds, bounds_relative

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        # By the length of the rubrics: a criterion that could not be judged must not change what a bound means.
        relative = len(set(map(len, scores.names))) > 1 if self.bounds_relative is None else self.bounds_relative
        return focal_weights(
            saturation, base, base > 0, gamma=self.gamma, epsilon=self.epsilon, bounds=self.bounds, bounds_relative=relative
        )


class RewardRule(ABC):
    """Folds the criteria of a rollout into one reward.

    ``uses_weights`` says whether the size of a weight matters to it.
    """

    uses_weights = True

    @abstractmethod
    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """Return rewards ``[P, G]`` from ``weights`` ``[P, C]``; 0 where a rollout is not valid."""


class WeightedSum(RewardRule):
    """Weighted mean over the criteria that were judged, see :func:`~lightning_focal.functional.weighted_reward`."""

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        return weighted_reward(scores.scores, weights, scores.mask)


class Advantage(ABC):
    """Turns rewards, or criterion scores and weights directly, into advantages.

    ``uses_reward`` says whether the reward is looked at, ``uses_weights`` whether weights are, where it is not.
    """

    uses_reward = True
    uses_weights = True

    @abstractmethod
    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """Return advantages ``[P, G]``, exactly 0 where ``valid`` (``[P, G]``) is False."""

    def check_group_size(self, group_size: int) -> None:
        """Raise ``ValueError`` when a group of this size leaves no signal."""
        if group_size < 2:
            raise ValueError(
                f"`model.group_size` must be at least 2 for {type(self).__name__}, got {group_size}: "
                "an advantage compares the rollouts of one prompt with each other"
            )


def check_stages(weighting: Weighting, reward: RewardRule, advantage: Advantage) -> None:
    """Refuse stages of which one would undo another.

    Raises:
        ValueError: naming the stages and the reason.
    """
    moved = not isinstance(weighting, StaticWeighting)
    w, r, a = type(weighting).__name__, type(reward).__name__, type(advantage).__name__
    if not advantage.uses_reward and not isinstance(reward, WeightedSum):
        raise ValueError(
            f"`reward: {r}` would be lost: {a} is made of criterion scores and never looks at the reward; drop one of the two"
        )
    if moved and advantage.uses_reward and not reward.uses_weights:
        raise ValueError(
            f"{w} would be lost: `reward: {r}` takes no notice of how large a weight is; use static weights or another reward"
        )
    if moved and not advantage.uses_reward and not advantage.uses_weights:
        raise ValueError(f"{w} would be lost: {a} weighs all criteria alike here; use static weights or another advantage")


class GroupAdvantage(Advantage):
    """GRPO and its relatives, see :func:`~lightning_focal.functional.group_advantage`.

    Args:
        scale: ``group`` divides by the group's standard deviation (GRPO), ``none`` does not (Dr. GRPO), ``batch`` divides by
            the standard deviation over the batch, all processes together.
        epsilon: added to the standard deviation.

    Raises:
        ValueError: for another ``scale``.
    """

    def __init__(self, scale: Literal["group", "none", "batch"] = "group", epsilon: float = 1e-6) -> None:
        expect_choice("scale", scale, ("group", "none", "batch"))
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        moments = all_reduce_sum(batch_moments(rewards, valid)) if self.scale == "batch" else None
        return group_advantage(rewards, valid, scale=self.scale, epsilon=self.epsilon, moments=moments)


class RlooAdvantage(Advantage):
    """Leave-one-out baseline, see :func:`~lightning_focal.functional.rloo_advantage`."""

    def __call__(self, scores: CriterionScores, weights: Tensor, rewards: Tensor, valid: Tensor) -> Tensor:
        """See :class:`Advantage`."""
        return rloo_advantage(rewards, valid)
