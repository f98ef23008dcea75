"""The stages between criterion scores and advantages, each replaceable from the YAML: base weights -> weights -> reward -> advantage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_focal.functional import (
    batch_moments,
    criterion_moments,
    focal_weights,
    group_advantage,
    level_index,
    rloo_advantage,
    weighted_reward,
)
from lightning_focal.functional.choices import expect_choice
from lightning_focal.types import CriterionScores, Rollouts

__all__ = [
    "WHOLE_BATCH",
    "Advantage",
    "BaseWeights",
    "FocalWeighting",
    "GroupAdvantage",
    "RewardRule",
    "RlooAdvantage",
    "Stage",
    "StaticWeighting",
    "WeightedSum",
    "Weighting",
    "all_reduce_sum",
    "check_base_weights",
    "check_stages",
    "distributed",
    "given_weight",
    "key_columns",
    "raw_weights",
]

BaseWeights = Literal["uniform", "prior"] | dict[str, float]
"""``prior``: the rubric's points; ``uniform``: all alike; a mapping: by criterion name, or by criterion key."""


WHOLE_BATCH = ContextVar("WHOLE_BATCH", default=False)
"""True where every process holds the whole batch, as in TRL: then nothing is summed over processes."""


def distributed() -> bool:
    """Return whether several processes train together, each on its part of a batch."""
    if WHOLE_BATCH.get():
        return False
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over all processes, ``value`` itself where there is one; every process must call it."""
    if distributed():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


def key_columns(scores: CriterionScores, keys: Mapping[str, int]) -> Tensor:
    """``[P, C]`` long: position of each criterion's key, -1 = padding or an unknown key."""
    c = scores.scores.shape[2]
    rows = [[keys.get(key, -1) for key in row] + [-1] * (c - len(row)) for row in scores.keys]
    return torch.tensor(rows, dtype=torch.long, device=scores.scores.device).reshape(len(rows), c)


class Stage:
    """Base of all stages. A stage knows every criterion key."""

    keys: Mapping[str, int] = MappingProxyType({})

    def learn_keys(self, keys: Iterable[str]) -> None:
        """Learn every criterion key there is, the same list on every process; called again when there are more."""
        self.keys = {key: position for position, key in enumerate(keys)}

    def moments(self, scores: CriterionScores) -> tuple[Tensor, Tensor]:
        """``[P, C]`` positions of the criteria, and the moments ``[3, n]`` of their scores over the batch of all processes.

        See :func:`~lightning_focal.functional.criterion_moments`; a collective, which every process must call.
        """
        # On several processes every one knows the same keys; on one, a batch may bring new ones.
        names = list(self.keys if distributed() else dict.fromkeys(key for keys in scores.keys for key in keys))
        index = level_index(scores.keys, names, scores.scores.shape[2]).to(scores.scores.device)
        return index, all_reduce_sum(criterion_moments(scores.scores, scores.mask, index, len(names)))


# -- base weights -----------------------------------------------------------------------------------------------------------


def check_base_weights(weights: BaseWeights) -> None:
    """Raise ``ValueError`` for what is no choice of base weights."""
    if isinstance(weights, dict):
        bad = {name: value for name, value in weights.items() if not 0 <= value < float("inf")}
        if bad or not any(weights.values()):
            raise ValueError(f"`weights` must map names to finite numbers >= 0, at least one above 0, got {bad or weights}")
    elif weights not in ("uniform", "prior"):
        raise ValueError(f"`weights` must be 'uniform', 'prior' or a mapping of names to weights, got {weights!r}")


def given_weight(weights: dict[str, float], name: str, key: str) -> float:
    """Return the weight of a criterion's name, or else of its key; ``ValueError`` when there is neither."""
    weight = weights.get(name, weights.get(key))
    if weight is None:
        raise ValueError(
            f"`weights` has no weight for the criterion {name!r}, nor for its key {key!r}; it names {sorted(weights)}"
        )
    return float(weight)


def raw_weights(weights: BaseWeights, scores: CriterionScores) -> Tensor:
    """Return base weights ``[P, C]`` that need not sum to 1; ``ValueError`` when a mapping has no weight for a criterion.

    >>> one = torch.ones(1, 1, 2)
    >>> scores = CriterionScores(one, one > 0, torch.tensor([[0.9, 0.1]]), (("short", "polite"),), ((("axis:brevity",), ()),))
    >>> raw_weights({"brevity": 2.0, "polite": 1.0}, scores)
    tensor([[2., 1.]])
    """
    if weights == "prior":
        return scores.weights
    if isinstance(weights, str):
        return torch.ones_like(scores.weights)
    raw = torch.zeros_like(scores.weights)
    for p, (names, keys) in enumerate(zip(scores.names, scores.keys, strict=True)):
        given = [given_weight(weights, name, key) for name, key in zip(names, keys, strict=True)]
        raw[p, : len(names)] = raw.new_tensor(given)
    return raw


# -- weights ----------------------------------------------------------------------------------------------------------------


class Weighting(Stage, ABC):
    """Turns base weights into the weights in force.

    Most are stateless: what they know of the past is the saturation. One that remembers more sets ``learns`` and has :meth:`observe`,
    :meth:`state_dict` and :meth:`load_state_dict`; calling it changes no state.

    Attributes:
        learns: whether :meth:`observe` is to be called.
        repeats: share of a training batch's rollouts to be judged twice, see :attr:`~lightning_focal.types.CriterionScores.repeated`.
        ignores_base: True = of the base weights it matters alone which are above 0.
    """

    learns: bool = False
    repeats: float = 0.0
    ignores_base: ClassVar[bool] = False

    def observe(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> None:
        """Learn from a training batch before it is shaped; every process calls it, also one with nothing valid. Not in a warm-up."""

    def measures(self, scores: CriterionScores) -> dict[str, Tensor]:
        """Return what is worth watching of each criterion, see :attr:`~lightning_focal.types.Shaped.measures`."""
        return {}

    def validate(self, names: Iterable[str]) -> None:
        """Raise ``ValueError`` where this asks for criteria of which there are none; ``names`` are all names, keys and log keys."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain data and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back; an empty one, of a run whose weighting kept none, leaves everything as it is."""

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
        bounds: lowest and highest weight, or None. In a batch whose rubrics differ in length they are multiples of the base
            weights (ours).
        mix: share of the moved weights; the rest are base weights. Bounds hold for the sum.
    """

    def __init__(
        self, gamma: float = 3.0, epsilon: float = 0.05, bounds: tuple[float, float] | None = None, mix: float = 1.0
    ) -> None:
        if not gamma >= 0:
            raise ValueError(f"`gamma` must be >= 0, got {gamma}")
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be > 0, got {epsilon}")
        if bounds is not None and not 0 <= bounds[0] <= bounds[1]:
            raise ValueError(f"`bounds` must be (lowest, highest) with 0 <= lowest <= highest, got {tuple(bounds)}")
        if not 0 <= mix <= 1:
            raise ValueError(f"`mix` must be in [0, 1], got {mix}")
        self.gamma, self.epsilon, self.bounds, self.mix = gamma, epsilon, bounds, mix

    def __call__(self, scores: CriterionScores, saturation: Tensor, base: Tensor) -> Tensor:
        """See :class:`Weighting`."""
        bounds = None
        if self.bounds is not None:
            # By the length of the rubrics: a criterion that could not be judged must not change what a bound means.
            unit = base if len(set(map(len, scores.names))) > 1 else torch.ones_like(base)
            bounds = (self.bounds[0] * unit, self.bounds[1] * unit)
        return focal_weights(saturation, base, base > 0, self.gamma, self.epsilon, bounds, self.mix)


# -- reward -----------------------------------------------------------------------------------------------------------------


class RewardRule(Stage, ABC):
    """Folds the criteria of a rollout into one reward. ``uses_weights`` says whether the size of a weight matters to it."""

    uses_weights = True

    def measures(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Return what this needs of rollouts beside their scores, put into ``scores.measures`` and logged; the same names in every batch."""
        return {}

    def check_length(self, max_new_tokens: int) -> None:
        """Raise ``ValueError`` when responses of at most this many tokens leave this nothing to do."""

    @abstractmethod
    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """Return rewards ``[P, G]`` from ``weights`` ``[P, C]``; 0 where a rollout is not valid."""


class WeightedSum(RewardRule):
    """Weighted mean over the criteria that were judged, see :func:`~lightning_focal.functional.weighted_reward`."""

    def __call__(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """See :class:`RewardRule`."""
        return weighted_reward(scores.scores, weights, scores.mask)


# -- advantage --------------------------------------------------------------------------------------------------------------


class Advantage(Stage, ABC):
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


def check_stages(weighting: Weighting, reward: RewardRule, advantage: Advantage) -> None:
    """Raise ``ValueError`` for stages of which one would undo another."""
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
