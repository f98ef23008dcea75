"""A reward strategy: a Lightning callback that turns rollouts into rewards and advantages."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_focal.arguments import given_arguments
from lightning_focal.functional import base_weights, inverse_reward_projection, level_sums, pool_levels, weighted_reward
from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges import Judge
from lightning_focal.keys import level_key, log_key
from lightning_focal.rewards.sources import Answerer, RubricScores, ScoreSource
from lightning_focal.rewards.stages import (
    Advantage,
    BaseWeights,
    GroupAdvantage,
    RewardRule,
    StaticWeighting,
    WeightedSum,
    Weighting,
    all_reduce_sum,
    check_base_weights,
    check_stages,
    distributed,
    given_weight,
    key_columns,
    raw_weights,
)
from lightning_focal.rubrics import Criterion
from lightning_focal.seeds import prompt_seed, run_seed
from lightning_focal.types import CriterionScores, Prompts, Rollouts, Shaped

__all__ = ["RewardStrategy", "draw_seeds", "find_strategy"]

Scope = Literal["group", "batch", "running"]
_STATE_KEY = "RewardStrategy"


class RewardStrategy(Callback, ABC):
    """Scores rollouts, tracks how saturated each criterion is, and shapes rewards and advantages from both.

    One step calls :meth:`score`, :meth:`observe` (training only) and :meth:`shape` in this order. ``shape`` works without a
    Trainer. A subclass names its parts; the stages stay the same: *weights* -> *reward* -> *advantage*.

    Args:
        source: where the scores come from; by default each prompt's rubric under ``judge``.
        weighting: turns base weights into the weights in force, :class:`SawWeighting` say; the base weights themselves by default.
        judge: who judges the rubrics; rules by default. Not together with ``source``.
        weights: base weights (arXiv:2605.26579): ``prior`` takes ``|points| / sum |points|`` of the rubric, ``uniform`` weighs
            the applying criteria equally, a mapping gives weights by criterion name or key (ours).
        temperature: of the inverse reward projection that measures saturation, in units of reward; > 0.
        scope: where saturation is measured: ``group`` in each prompt's own group (public re-implementation), ``batch`` one level
            per criterion key over all groups, ``running`` an exponential moving average of the batch level (ours).
        decay: of that average, in [0, 1).
        warmup: number of training batches during which the base weights stay in force.
        reward: folds criteria into one reward; a weighted sum by default.
        advantage: turns rewards into advantages; GRPO's by default.
        held_out: scores the rollouts of validation, test and prediction; ``source`` by default. What trains without labels is
            still measured against them where they are known.
        held_out_judge: judges the rubrics of held-out rollouts beside the training judge and never trains anything. Where the score by the
            training judge rises and that by this one falls, the policy learns to please its judge. None = without.

    Attributes:
        keys: every criterion key met so far, and its position in ``levels``.
        levels: ``[K]`` float64, how saturated each key is over all ranks, NaN = not seen: the moving average under the scope
            ``running``, else the level of the last training batch. The scope ``group`` does not use them.
        batches: number of training batches observed.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        source: ScoreSource | None = None,
        weighting: Weighting | None = None,
        *,
        judge: Judge | None = None,
        weights: BaseWeights = "prior",
        temperature: float = 1.0,
        scope: Scope = "group",
        decay: float = 0.9,
        warmup: int = 0,
        reward: RewardRule | None = None,
        advantage: Advantage | None = None,
        held_out: ScoreSource | None = None,
        held_out_judge: Judge | None = None,
    ) -> None:
        self.arguments = given_arguments(self)
        if judge is not None and source is not None:
            raise ValueError("give `judge` or `source`, not both: a source brings its own judge")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {temperature}")
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        if warmup < 0:
            raise ValueError(f"`warmup` must be >= 0, got {warmup}")
        check_base_weights(weights)
        expect_choice("scope", scope, ("group", "batch", "running"))
        self.source = source or RubricScores(judge)
        self.held_out = held_out or self.source
        self.second = None if held_out_judge is None else RubricScores(held_out_judge)
        self.weighting = weighting or StaticWeighting()
        self.reward = reward or WeightedSum()
        self.advantage = advantage or GroupAdvantage()
        check_stages(self.weighting, self.reward, self.advantage)
        if self.weighting.repeats and type(self.source).judge_again is ScoreSource.judge_again:
            raise ValueError(
                f"{type(self.source).__name__} cannot judge rollouts twice: give informedness as a mapping or a file"
            )
        self.weights, self.temperature = weights, temperature
        self.scope, self.decay, self.warmup = scope, decay, warmup
        self.batches = 0
        self.keys: dict[str, int] = {}
        self._logged: dict[str, dict[str, None]] = {}  # by criterion key: what its criteria are logged under
        self.levels = torch.zeros(0, dtype=torch.float64)

    # -- the three calls of a step ------------------------------------------------------------------------------------

    @contextmanager
    def judging(
        self, prompts: Prompts, stage: str, group_size: int, thinks: bool = True
    ) -> Iterator[Callable[[int, int, str], None] | None]:
        """Around generation and :meth:`score` of a batch: gives what takes each response once it is whole (row, place in the group, text).

        None where nothing is judged before all responses are there. Whatever ends the block, no judgement is begun after it.
        """
        sources = (self.source,) if stage == "train" else self._measuring
        again = self._chosen(draw_seeds(self.batches, prompts.ids), group_size) if stage == "train" and len(prompts) else None
        try:
            took = [source.begin(prompts, group_size, thinks, again) for source in sources]
            takers = [take for take in took if take is not None]

            def take(row: int, place: int, text: str) -> None:
                for one in takers:
                    one(row, place, text)

            yield take if takers else None
        finally:
            for source in sources:
                source.end()

    def score(self, rollouts: Rollouts, stage: str = "train") -> CriterionScores:
        """Score rollouts of ``stage``; a judgement that failed is masked, never 0.

        In training each prompt gets a seed for what a stage draws, and a share of rollouts is judged twice where the weighting wants it.
        """
        scores = (self.source if stage == "train" else self.held_out)(rollouts)
        if measures := self.reward.measures(rollouts):
            scores = replace(scores, measures={**scores.measures, **measures})
        if not len(rollouts.prompts):
            return _nothing(rollouts.group_size, scores.measures)
        if stage != "train":
            return scores if self.second is None else with_second(scores, self.second(rollouts))
        seeds = draw_seeds(self.batches, rollouts.prompts.ids)
        scores = replace(scores, seeds=seeds)
        chosen = self._chosen(seeds, rollouts.group_size)
        if chosen is None:
            return scores
        return replace(scores, repeated=self.source.judge_again(rollouts, chosen))

    def _chosen(self, seeds: Tensor, group_size: int) -> Tensor | None:
        """``[P, G]`` which rollouts of a training batch are judged twice; None = none."""
        if not self.weighting.repeats or self._warming_up(self.batches + 1):
            return None
        return _drawn(seeds, group_size) < self.weighting.repeats

    def observe(self, scores: CriterionScores) -> None:
        """Update the levels from a training batch: one collective, called by every rank, also by one with nothing valid.

        Raises:
            RuntimeError: on several processes, for a criterion key that was not announced before training.
        """
        met = _positions(scores)
        self._learn_logged(zip(chain(*scores.keys), chain(*scores.log_keys), strict=True))
        unknown = [key for key in met if key not in self.keys]
        if unknown and distributed():
            raise RuntimeError(
                f"criterion keys {unknown} were not announced before training; on several processes every rank must know all "
                "keys: let the data module list them in `level_keys()`"
            )
        self.learn_keys(met)
        level = self._batch_levels(scores, self.base_weights(scores), self.keys)
        if self.scope == "running":
            blended = self.decay * self.levels + (1 - self.decay) * level
            level = torch.where(level.isnan(), self.levels, torch.where(self.levels.isnan(), level, blended))
        self.levels = level
        self.batches += 1
        if self.weighting.learns and not self._warming_up(self.batches):
            base = self.base_weights(scores)
            self.weighting.observe(scores, self._saturation(scores, base), base)

    def shape(self, scores: CriterionScores) -> Shaped:
        """Return rewards, advantages, weights and saturation; reads the state, never changes it."""
        base = self.base_weights(scores)
        saturation = self._saturation(scores, base)
        weights = base if self._warming_up(self.batches) else self.weighting(scores, saturation, base)
        rewards = self.reward(scores, weights)
        valid = scores.judged(weights)  # a rollout judged on nothing that weighs has no reward: its 0 must not enter the baseline
        advantages = self.advantage(scores, weights, rewards, valid)
        return Shaped(
            rewards=rewards.masked_fill(~valid, 0),
            advantages=advantages.masked_fill(~valid, 0),
            weights=weights,
            saturation=saturation,
            static=weighted_reward(scores.scores, base, scores.mask),
            valid=valid,
            measures=self.weighting.measures(scores),
        )

    def _warming_up(self, batches: int) -> bool:
        return self.warmup > 0 and batches <= self.warmup

    # -- base weights and saturation ------------------------------------------------------------------------------------

    def base_weights(self, scores: CriterionScores) -> Tensor:
        """Return base weights ``[P, C]``: rows sum to 1 over the criteria judged in at least one rollout, 0 elsewhere."""
        return base_weights(raw_weights(self.weights, scores), scores.mask.any(1))

    def level_of(self, key: str) -> float:
        """Return the level of a criterion key, see :attr:`levels` (NaN before it was seen)."""
        return float(self.levels[self.keys[key]]) if key in self.keys else float("nan")

    def _saturation(self, scores: CriterionScores, base: Tensor) -> Tensor:
        """``[P, C]``: the level of each criterion's key under the scope, that of its own group where there is none."""
        own = inverse_reward_projection(scores.scores, base, scores.mask, temperature=self.temperature)
        if self.scope == "group":
            return own
        keys, levels = self.keys, self.levels
        if not self.batches:  # nothing observed yet: the batch at hand, of all processes, is all there is
            keys = self.keys if distributed() else _positions(scores)
            levels = self._batch_levels(scores, base, keys)
        shared = torch.nn.functional.pad(levels, (0, 1), value=torch.nan).to(own)[key_columns(scores, keys)]  # -1 reads the NaN
        return torch.where(shared.isnan(), own, shared)

    def _batch_levels(self, scores: CriterionScores, base: Tensor, keys: Mapping[str, int]) -> Tensor:
        """``[K]`` float64 on the CPU: the level of each key over the batch, all processes together; NaN = not judged."""
        sums = level_sums(scores.scores, base, scores.mask, key_columns(scores, keys), len(keys), self.temperature)
        return pool_levels(*all_reduce_sum(torch.stack(sums)).cpu().double())

    # -- criterion keys -------------------------------------------------------------------------------------------------

    def learn_keys(self, keys: Iterable[str]) -> None:
        """Take in criterion keys; on several processes all must learn the same ones, in the same order."""
        new = [key for key in dict.fromkeys(keys) if key not in self.keys]
        if new:
            self.keys |= {key: len(self.keys) + i for i, key in enumerate(new)}
            self.levels = torch.nn.functional.pad(self.levels, (0, len(new)), value=torch.nan)
            for part in (self.weighting, self.reward, self.advantage):
                part.learn_keys(self.keys)

    def learn_criteria(self, criteria: Iterable[Criterion]) -> None:
        """Take in criteria that the data does not have; on several processes all must learn the same ones, in the same order."""
        pairs = [(level_key(c.name, c.tags), log_key(c.name, c.tags)) for c in criteria]
        self.learn_keys(key for key, _ in pairs)
        self._learn_logged(pairs)

    def stage_keys(self, stage: str) -> list[str]:
        """Return the keys that criteria of ``stage`` are logged under, as far as they are known; see :func:`~lightning_focal.types.log_key`."""
        own, other = (self.source, self.held_out) if stage == "train" else (self.held_out, self.source)
        foreign = set(other.level_keys()) - set(own.level_keys())
        keys = [key for key in dict.fromkeys([*own.level_keys(), *self.keys]) if key not in foreign]
        return list(dict.fromkeys(logged for key in keys for logged in self._logged.get(key, (key,))))

    def _learn_logged(self, pairs: Iterable[tuple[str, str]]) -> None:
        for key, logged in pairs:
            self._logged.setdefault(key, {})[logged] = None

    # -- Lightning ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the prompts against the source and learn every criterion key before anything expensive starts."""
        group_size = getattr(pl_module, "group_size", None)
        if stage == "fit" and group_size is not None:
            self.advantage.check_group_size(group_size)
        if stage == "fit" and (sampling := getattr(pl_module, "sampling", None)) is not None:
            self.reward.check_length(sampling.max_new_tokens)
        self.learn_keys(self.source.level_keys())
        datamodule, names = getattr(trainer, "datamodule", None), set(self.source.level_keys())
        for split, prompts in getattr(datamodule, "splits", dict)().items():
            for source in (self.source,) if split == "train" else self._measuring:
                source.validate(prompts)
            criteria = [criterion for rubric in prompts.rubrics if rubric is not None for criterion in rubric.criteria]
            self._learn_logged((level_key(c.name, c.tags), log_key(c.name, c.tags)) for c in criteria)
            names.update(*((c.name, level_key(c.name, c.tags), log_key(c.name, c.tags)) for c in criteria))
            if isinstance(self.weights, dict):
                for criterion in criteria:
                    given_weight(self.weights, criterion.name, level_key(criterion.name, criterion.tags))
        self.learn_keys(getattr(datamodule, "level_keys", list)())
        self.weighting.validate(names)
        for source in dict.fromkeys((self.source, *self._measuring)):  # a judge's server is asked once everything else is right
            source.bind(cast(Answerer, pl_module))

    @property
    def _measuring(self) -> tuple[ScoreSource, ...]:
        """Sources of held-out scores."""
        return (self.held_out,) if self.second is None else (self.held_out, self.second)

    @property
    def state_key(self) -> str:
        """Marks the state as a reward strategy's, so that resuming with another one is noticed."""
        return f"{_STATE_KEY}[{self._name}]"

    @property
    def _name(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raise ``ValueError`` for a checkpoint of another strategy, of which the Trainer would only warn."""
        for key, state in checkpoint.get("callbacks", {}).items():
            if key.startswith(_STATE_KEY):
                self._expect_own(state)

    def _expect_own(self, state: dict[str, Any]) -> None:
        if state["strategy"] != self._name:
            raise ValueError(
                f"the checkpoint was written with the reward strategy {state['strategy']}, this run uses {self._name}; "
                "resume with the same strategy, or start a new run from the weights alone (`lightning_focal fit` without --ckpt_path)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: levels per key, number of batches, what the weighting keeps, and which strategy wrote them."""
        state = {"strategy": self._name, "batches": self.batches, "keys": list(self.keys), "levels": self.levels.clone()}
        weighting = self.weighting.state_dict()
        return state | {"weighting": weighting} if weighting else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; ``ValueError`` when another strategy wrote it."""
        self._expect_own(state_dict)
        levels = state_dict.get("levels")
        if levels is None:  # of an early 0.1: the sums of the last batch beside the average
            batch = pool_levels(state_dict["projected"], state_dict["judged"])
            levels = state_dict["running"] if self.scope == "running" else batch
        self.learn_keys(state_dict["keys"])
        self.batches = int(state_dict["batches"])
        self.levels = torch.full_like(self.levels, torch.nan)
        self.levels[torch.tensor([self.keys[key] for key in state_dict["keys"]], dtype=torch.long)] = levels.to(self.levels)
        self.weighting.load_state_dict(state_dict.get("weighting", {}))


def _nothing(group_size: int, measures: Mapping[str, Tensor]) -> CriterionScores:
    """Scores of no prompt, which say nothing of the number of criteria: ``[0, G, 1]``."""
    none = torch.zeros(0, group_size, 1)
    return CriterionScores(none, none.bool(), none[:, 0], (), measures=measures)


def with_second(scores: CriterionScores, second: CriterionScores) -> CriterionScores:
    """Add what a second judge found to the measures of held-out scores.

    ``held_out_judge/mean`` is the prior-weighted score by the second judge ``[P, G]``, NaN where it judged nothing that weighs;
    ``held_out_judge/disagreement`` the mean of ``|first - second|`` over the criteria that both judged.

    Args:
        scores: by the judge that trains.
        second: of the same rollouts and rubrics.
    """
    reward = weighted_reward(second.scores, second.weights, second.mask)
    both = scores.mask & second.mask
    apart = (scores.scores - second.scores).abs().masked_fill(~both, 0).sum(-1) / both.sum(-1)  # 0 / 0 is NaN
    measures = {"mean": torch.where(second.judged(second.weights), reward, torch.nan), "disagreement": apart}
    return replace(scores, measures={**scores.measures, **{f"held_out_judge/{name}": of for name, of in measures.items()}})


def _positions(scores: CriterionScores) -> dict[str, int]:
    """Every criterion key of a batch, in order, and its position."""
    return {key: i for i, key in enumerate(dict.fromkeys(key for keys in scores.keys for key in keys))}


def draw_seeds(batch: int, ids: Sequence[str]) -> Tensor:
    """``[P]`` int64 seed of each prompt's own draws in a training batch: a function of the run's seed, of the batch and of the id."""
    return torch.tensor([prompt_seed(run_seed(None), "shape", batch, name) for name in ids], dtype=torch.int64)


def _drawn(seeds: Tensor, group_size: int) -> Tensor:
    """``[P, G]`` a draw from [0, 1) for each rollout."""
    rows = [torch.rand(group_size, generator=torch.Generator().manual_seed(seed ^ 1)) for seed in seeds.tolist()]
    return torch.stack(rows)


def find_strategy(trainer: Trainer) -> RewardStrategy:
    """Return the one reward strategy among the trainer's callbacks.

    Raises:
        ValueError: when there is none, or more than one; the message says what to write.
    """
    found = [callback for callback in trainer.callbacks if isinstance(callback, RewardStrategy)]  # type: ignore[attr-defined]
    if not found:
        raise ValueError(
            "no reward strategy: write `--reward=FocalReward` (or StaticReward), or add one to `trainer.callbacks`:\n"
            "  trainer:\n    callbacks:\n      - class_path: lightning_focal.rewards.FocalReward"
        )
    if len(found) > 1:
        names = ", ".join(type(strategy).__name__ for strategy in found)
        raise ValueError(
            f"{len(found)} reward strategies ({names}), exactly one is needed: keep `--reward` or the one in `trainer.callbacks`"
        )
    return found[0]
