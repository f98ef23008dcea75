"""A reward strategy: a Lightning callback that turns rollouts into rewards and advantages."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_focal.functional import base_weights, inverse_reward_projection, level_sums, pool_levels, weighted_reward
from lightning_focal.functional.choices import expect_choice
from lightning_focal.metrics import CriterionSaturation
from lightning_focal.rewards.base_weights import BaseWeights, check_base_weights, given_weight, raw_weights
from lightning_focal.rewards.collective import all_reduce_sum, distributed
from lightning_focal.rewards.sources import Answerer, RubricScores, ScoreSource
from lightning_focal.rewards.stages import (
    Advantage,
    GroupAdvantage,
    RewardRule,
    StaticWeighting,
    WeightedSum,
    Weighting,
    check_stages,
)
from lightning_focal.types import CriterionScores, Rollouts, Shaped, level_key

__all__ = ["RewardStrategy", "find_strategy"]

Scope = Literal["group", "batch", "running"]


class RewardStrategy(Callback, ABC):
    """Scores rollouts, tracks how saturated each criterion is, and shapes rewards and advantages from both.

    One step calls :meth:`score`, :meth:`observe` (training only) and :meth:`shape` in this order. ``shape`` works without a
    Trainer. A subclass names its parts; the stages stay the same: *weights* -> *reward* -> *advantage*.

    Args:
        source: where the scores come from; by default each prompt's rubric under a rule judge.
        weighting: turns base weights into the weights in force.
        weights: base weights (arXiv:2605.26579): ``prior`` takes ``|points| / sum |points|`` of the rubric, ``uniform`` weighs
            the applying criteria equally, a mapping gives weights by criterion name or key (ours).
        temperature: of the inverse reward projection that measures saturation, in units of reward; > 0.
        scope: where saturation is measured: ``group`` in each prompt's own group (public re-implementation), ``batch`` one level
            per criterion key over all groups, ``running`` an exponential moving average of the batch level (ours).
        decay: of that average, in [0, 1).
        warmup: number of training batches during which the base weights stay in force.
        reward: folds criteria into one reward.
        advantage: turns rewards into advantages.
        held_out: scores the rollouts of validation, test and prediction; ``source`` by default. What trains without labels is
            still measured against them where they are known.

    Attributes:
        saturation: the :class:`~lightning_focal.metrics.CriterionSaturation` of the last training batch, over all ranks.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        source: ScoreSource | None = None,
        weighting: Weighting | None = None,
        *,
        weights: BaseWeights = "prior",
        temperature: float = 1.0,
        scope: Scope = "group",
        decay: float = 0.9,
        warmup: int = 0,
        reward: RewardRule | None = None,
        advantage: Advantage | None = None,
        held_out: ScoreSource | None = None,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {temperature}")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        if warmup < 0:
            raise ValueError(f"`warmup` must be >= 0, got {warmup}")
        check_base_weights(weights)
        expect_choice("scope", scope, ("group", "batch", "running"))
        self.source = source or RubricScores()
        self.held_out = held_out or self.source
        self.weighting = weighting or StaticWeighting()
        self.reward = reward or WeightedSum()
        self.advantage = advantage or GroupAdvantage()
        check_stages(self.weighting, self.reward, self.advantage)
        self.weights, self.temperature = weights, temperature
        self.scope, self.decay, self.warmup = scope, decay, warmup
        self.batches = 0
        self.saturation = CriterionSaturation([], temperature, sync_on_compute=False)
        self._running = torch.zeros(0, dtype=torch.float64)  # NaN = never seen
        self._index: dict[str, int] = {}

    # -- the three calls of a step ------------------------------------------------------------------------------------

    def score(self, rollouts: Rollouts, stage: str = "train") -> CriterionScores:
        """Score rollouts of ``stage``; a judgement that failed is masked, never 0."""
        scores = (self.source if stage == "train" else self.held_out)(rollouts)
        return scores if len(rollouts.prompts) else _nothing(rollouts.group_size, scores.measures)

    def observe(self, scores: CriterionScores) -> None:
        """Update the state from a training batch: one collective, called by every rank, also by one with nothing valid.

        Raises:
            RuntimeError: on several processes, for a criterion key that was not announced before training.
        """
        keys = dict.fromkeys(key for keys in scores.keys for key in keys)
        unknown = [key for key in keys if key not in self._index]
        if unknown and distributed():
            raise RuntimeError(
                f"criterion keys {unknown} were not announced before training; on several processes every rank must know all "
                "keys: let the data module list them in `level_keys()`"
            )
        self._register(keys)
        base = self.base_weights(scores)
        sums = torch.stack(
            level_sums(
                scores.scores, base, scores.mask, _columns(scores, self._index), len(self._index), temperature=self.temperature
            )
        )
        sums = all_reduce_sum(sums).cpu().double()
        self.saturation.reset()
        self.saturation.update_from_sums(sums[0], sums[1])
        level = pool_levels(sums[0], sums[1])
        blended = self.decay * self._running + (1 - self.decay) * level
        self._running = torch.where(level.isnan(), self._running, torch.where(self._running.isnan(), level, blended))
        self.batches += 1

    def shape(self, scores: CriterionScores) -> Shaped:
        """Return rewards, advantages, weights and saturation; reads the state, never changes it."""
        base = self.base_weights(scores)
        saturation = self._levels(scores, base)
        in_warmup = self.warmup > 0 and self.batches <= self.warmup
        weights = base if in_warmup else self.weighting(scores, saturation, base)
        rewards = self.reward(scores, weights)
        valid = scores.judged(weights)  # a rollout judged on nothing that weighs has no reward: its 0 must not enter the baseline
        advantages = self.advantage(scores, weights, rewards, valid)
        return Shaped(
            rewards=torch.where(valid, rewards, torch.zeros_like(rewards)),
            advantages=torch.where(valid, advantages, torch.zeros_like(advantages)),
            weights=weights,
            saturation=saturation,
            static=weighted_reward(scores.scores, base, scores.mask),
            valid=valid,
        )

    # -- parts ----------------------------------------------------------------------------------------------------------

    def base_weights(self, scores: CriterionScores) -> Tensor:
        """Return base weights ``[P, C]``: rows sum to 1 over the criteria judged in at least one rollout, 0 elsewhere."""
        return base_weights(raw_weights(self.weights, scores), scores.mask.any(1))

    @property
    def keys(self) -> dict[str, int]:
        """Every criterion key met so far and its position in :attr:`saturation`."""
        return dict(self._index)

    def stage_keys(self, stage: str) -> list[str]:
        """Return the criterion keys that rollouts of ``stage`` can be scored by, as far as they are known."""
        own, other = (self.source, self.held_out) if stage == "train" else (self.held_out, self.source)
        foreign = set(other.level_keys()) - set(own.level_keys())
        return [key for key in dict.fromkeys([*own.level_keys(), *self._index]) if key not in foreign]

    def level_of(self, key: str) -> float:
        """Return the level of a criterion key under the strategy's scope over batches (NaN before it was seen)."""
        if key not in self._index:
            return float("nan")
        return float(self._table()[self._index[key]])

    def _levels(self, scores: CriterionScores, base: Tensor) -> Tensor:
        own = inverse_reward_projection(scores.scores, base, scores.mask, temperature=self.temperature)
        if self.scope == "group":
            return own
        if not self.batches:  # nothing observed yet: the batch at hand, of all processes, is all there is
            met = dict.fromkeys(key for keys in scores.keys for key in keys)
            index = self._index if distributed() else {key: i for i, key in enumerate(met)}
            columns = _columns(scores, index)
            sums = level_sums(scores.scores, base, scores.mask, columns, len(index), self.temperature)
            table = pool_levels(*all_reduce_sum(torch.stack(sums)))
        else:
            columns = _columns(scores, self._index)
            table = self._table()
        if table.numel() == 0:
            return own
        shared = table.to(own)[columns.clamp_min(0)]
        return torch.where((columns >= 0) & ~shared.isnan(), shared, own)

    def _table(self) -> Tensor:
        """``[K]`` level of every key under the scope over batches, NaN = never seen."""
        # reshape: torchmetrics makes a scalar of a single level
        return self._running if self.scope == "running" else self.saturation.compute().reshape(-1)

    def _register(self, keys: Iterable[str]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self._index]
        if not new:
            return
        old = self.saturation
        self._index.update({key: len(self._index) + i for i, key in enumerate(new)})
        self.weighting.learn_keys(self._index)
        self.saturation = CriterionSaturation(list(self._index), self.temperature, sync_on_compute=False)
        if len(old.names):
            pad = torch.zeros(len(new), dtype=torch.float64)
            self.saturation.update_from_sums(torch.cat([old.projected, pad]), torch.cat([old.judged, pad]))
        self._running = torch.cat([self._running, torch.full((len(new),), torch.nan, dtype=torch.float64)])

    # -- Lightning ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the prompts against the source and learn every criterion key before anything expensive starts."""
        group_size = getattr(pl_module, "group_size", None)
        if stage == "fit" and group_size is not None:
            self.advantage.check_group_size(group_size)
        self._register(self.source.level_keys())
        for source in (self.source, *([] if self.held_out is self.source else [self.held_out])):
            source.bind(cast(Answerer, pl_module))
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is None:
            return
        for split, prompts in getattr(datamodule, "splits", dict)().items():
            (self.source if split == "train" else self.held_out).validate(prompts)
            if isinstance(self.weights, dict):
                for criterion in (criterion for rubric in prompts.rubrics for criterion in rubric.criteria):
                    given_weight(self.weights, criterion.name, level_key(criterion.name, criterion.tags))
        self._register(getattr(datamodule, "level_keys", list)())

    @property
    def state_key(self) -> str:
        """Marks the state as a reward strategy's, so that resuming with another one is noticed."""
        return f"{_STATE_KEY}[{_name(type(self))}]"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another strategy, of which the Trainer would only warn.

        Raises:
            ValueError: naming both.
        """
        for key, state in checkpoint.get("callbacks", {}).items():
            if key.startswith(_STATE_KEY) and key != self.state_key:
                self._expect_own(state["strategy"])

    def _expect_own(self, strategy: str) -> None:
        if strategy != _name(type(self)):
            raise ValueError(
                f"the checkpoint was written with the reward strategy {strategy}, this run uses {_name(type(self))}; "
                "resume with the same strategy, or start a new run from the weights alone (`lightning_focal fit` without --ckpt_path)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: levels per key, number of batches, and which strategy wrote them."""
        return {
            "strategy": _name(type(self)),
            "batches": self.batches,
            "keys": list(self._index),
            "projected": self.saturation.projected.clone(),
            "judged": self.saturation.judged.clone(),
            "running": self._running.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state.

        Raises:
            ValueError: when another strategy wrote the checkpoint.
        """
        self._expect_own(state_dict["strategy"])
        self._register(state_dict["keys"])
        order = torch.tensor([self._index[key] for key in state_dict["keys"]], dtype=torch.long)
        self.batches = int(state_dict["batches"])
        sums = torch.zeros(2, len(self._index), dtype=torch.float64)
        sums[:, order] = torch.stack([state_dict["projected"], state_dict["judged"]]).to(sums)
        self.saturation.reset()
        self.saturation.update_from_sums(sums[0], sums[1])
        self._running = torch.full((len(self._index),), torch.nan, dtype=torch.float64)
        self._running[order] = state_dict["running"].to(self._running)


def _nothing(group_size: int, measures: Mapping[str, Tensor]) -> CriterionScores:
    """Scores of no prompt, which say nothing of the number of criteria: ``[0, G, 1]``."""
    none = torch.zeros(0, group_size, 1)
    return CriterionScores(none, none.bool(), none[:, 0], (), measures=measures)


_STATE_KEY = "RewardStrategy"


def _name(strategy: type) -> str:
    return f"{strategy.__module__}.{strategy.__qualname__}"


def _columns(scores: CriterionScores, index: dict[str, int]) -> Tensor:
    """``[P, C]`` long: index of each criterion's key, -1 = padding or an unknown key."""
    c = scores.scores.shape[2]
    rows = [[index.get(key, -1) for key in keys] + [-1] * (c - len(keys)) for keys in scores.keys]
    return torch.tensor(rows, dtype=torch.long, device=scores.scores.device).reshape(len(rows), c)


def find_strategy(trainer: Trainer) -> RewardStrategy:
    """Return the one reward strategy among the trainer's callbacks.

    Raises:
        ValueError: when there is none, or more than one; the message says what to write.
    """
    found = [callback for callback in trainer.callbacks if isinstance(callback, RewardStrategy)]  # type: ignore[attr-defined]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            "no reward strategy: write `--reward=FocalReward` (or StaticReward), or add one to `trainer.callbacks`:\n"
            "  trainer:\n    callbacks:\n      - class_path: lightning_focal.rewards.FocalReward"
        )
    names = ", ".join(type(strategy).__name__ for strategy in found)
    raise ValueError(
        f"{len(found)} reward strategies ({names}), exactly one is needed: keep `--reward` or the one in `trainer.callbacks`"
    )
