"""Focal Reward in TRL: its ``GRPOTrainer`` with the weightings and advantages of this library, and rubrics as reward functions."""

from __future__ import annotations

import base64
import io
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers.trainer_callback import ExportableState, TrainerCallback

from lightning_focal.foreign import grpo_advantages, grpo_trainer
from lightning_focal.judges import Judge, JudgeRequest, RuleJudge, Verdict
from lightning_focal.keys import log_key
from lightning_focal.rubrics import Rubric, pool_untagged, read_rows
from lightning_focal.seeds import prompt_seed
from lightning_focal.types import CriterionScores, Shaped

if TYPE_CHECKING:
    from lightning_focal.rewards import RewardStrategy

__all__ = ["FocalGRPOTrainer", "rubric_reward"]

_log = logging.getLogger(__name__)


class StrategyState(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Keeps the state of a reward strategy in TRL's checkpoints, in ``trainer_state.json``; :class:`FocalGRPOTrainer` adds it."""

    strategy: ClassVar[RewardStrategy]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        file = io.BytesIO()
        torch.save(self.strategy.state_dict(), file)
        return {"args": {}, "attributes": {"saved": base64.b64encode(file.getvalue()).decode()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take it back from the checkpoint that a run resumes from."""
        kept = state.stateful_callbacks.get("StrategyState")
        if kept is not None:
            file = io.BytesIO(base64.b64decode(kept["attributes"]["saved"]))
            self.strategy.load_state_dict(torch.load(file, weights_only=True))
        elif state.global_step:
            _log.warning("the checkpoint holds no state of a reward strategy: %s starts anew", type(self.strategy).__name__)


class FocalGRPOTrainer(grpo_trainer()):  # type: ignore[misc]
    """TRL's ``GRPOTrainer`` with a reward strategy of this library over its reward functions.

    Each function is a criterion by its TRL name, ``reward_weights`` are the base weights, None and NaN are masked. The strategy weighs the
    criteria of each group. Where its reward and advantage are the defaults, the rest is TRL's own arithmetic, also
    ``scale_rewards`` and ``multi_objective_aggregation``: static weights give TRL's own numbers, and a None adds nothing to a sum.

    Beside TRL's logs, which show the rewards of each function as they are and ``reward`` under the base weights, stand ``reward/mean``
    (shaped, in [0, 1]), ``reward/static``, ``weight/<name>`` and ``saturation/<name>``.

    Args:
        *args: of ``GRPOTrainer``.
        reward: the strategy, :class:`~lightning_focal.rewards.FocalReward` say.
        bounds: lowest and highest reward of a function, by its name; ``(0, 1)`` by default.
        **kwargs: of ``GRPOTrainer``.

    Raises:
        ImportError: without TRL.
        TypeError: if ``reward`` is no strategy.
        ValueError: for a strategy that scores by itself, bounds that do not fit, a reward model without bounds, or settings of TRL that
            would be lost; in training, for a reward outside its bounds.
    """

    def __init__(
        self, *args: Any, reward: RewardStrategy, bounds: dict[str, tuple[float, float]] | None = None, **kwargs: Any
    ) -> None:
        from lightning_focal.rewards import GroupAdvantage, RewardStrategy, RubricScores, WeightedSum

        if not isinstance(reward, RewardStrategy):
            raise TypeError(f"`reward` must be a strategy, FocalReward(gamma=1.0) say, got {type(reward).__name__}")
        name, source, advantage = type(reward).__name__, reward.source, reward.advantage
        if type(source) is not RubricScores or type(source.judge) is not RuleJudge or reward.weighting.repeats:
            raise ValueError(
                f"`reward`: scores come from `reward_funcs`, {name} must not bring a source or a judge or judge twice"
            )
        super().__init__(*args, **kwargs)
        self.strategy, self.bounds = reward, dict(bounds or {})
        usual = type(advantage) is GroupAdvantage and (advantage.scale, advantage.epsilon) == ("group", 1e-6)
        self.adds_up_as_trl = usual and type(reward.reward) is WeightedSum
        given = (self.scale_rewards, self.multi_objective_aggregation)
        if not self.adds_up_as_trl and given != ("group", "sum_then_normalize"):
            raise ValueError(
                f"`scale_rewards`, `multi_objective_aggregation` = {given} would be lost: {name} has its own advantage"
            )
        for function, named in zip(self.reward_funcs, self.reward_func_names, strict=True):
            if isinstance(function, torch.nn.Module) and named not in self.bounds:
                raise ValueError(
                    f"`bounds` must say which rewards the model {named!r} can give: {{{named!r}: (lowest, highest)}}"
                )
        reward.base_weights(self._scores(torch.full((1, len(self.reward_funcs)), torch.nan), 1))  # names, bounds and weights fit
        reward.weighting.validate(self.reward_func_names)
        reward.learn_keys(self.reward_func_names)
        self._measured: dict[str, list[float]] = defaultdict(list)
        self.add_callback(type("StrategyState", (StrategyState,), {"strategy": reward})())  # transformers may make it anew

    def _scores(self, rewards: Tensor, group_size: int, **fields: Any) -> CriterionScores:
        grouped = rewards.view(-1, group_size, rewards.shape[1])
        return CriterionScores.of_rewards(grouped, self.reward_func_names, self.reward_weights.tolist(), self.bounds, **fields)

    def advantages_of(self, rewards: Tensor) -> Tensor:
        """Return advantages ``[N]`` of rewards ``[N, F]`` of all processes, NaN = none; in training the strategy learns from them."""
        train = bool(self.model.training)
        size = self.num_generations if train else self.num_generations_eval
        batch, groups = self.strategy.batches, range(len(rewards) // size)
        drawn = torch.tensor([prompt_seed(self.args.seed, "shape", batch, str(p)) for p in groups])
        scores = self._scores(rewards.cpu(), size, seeds=drawn if train else None)
        shaped = copy_context().run(self._shape, scores, train)
        self._measure(scores, shaped, "" if train else "eval_")
        if not self.adds_up_as_trl:
            return shaped.advantages.reshape(-1).to(rewards)
        weights = self._reward_weights(scores, shaped.weights).to(rewards).repeat_interleave(size, dim=0)
        return grpo_advantages(rewards, weights, size, self.scale_rewards, self.multi_objective_aggregation)

    def _shape(self, scores: CriterionScores, train: bool) -> Shaped:
        from lightning_focal.rewards.stages import WHOLE_BATCH

        WHOLE_BATCH.set(True)
        if train:
            self.strategy.observe(scores)
        return self.strategy.shape(scores)

    def _reward_weights(self, scores: CriterionScores, weights: Tensor) -> Tensor:
        """``[P, F]`` what stands for ``reward_weights`` in each group: their sum, spread as the weights of the criteria are."""
        given, judged = self.reward_weights.cpu(), scores.mask.any(1)
        low, high = torch.tensor([self.bounds.get(name, (0.0, 1.0)) for name in self.reward_func_names]).unbind(-1)
        total = (judged * given.abs() * (high - low)).sum(-1, keepdim=True)
        kept = (weights == self.strategy.base_weights(scores)) & (self.strategy.weights == "prior")
        return torch.where(kept, given, weights * total / torch.where(given < 0, low - high, high - low))  # kept to the last bit

    def _measure(self, scores: CriterionScores, shaped: Shaped, prefix: str) -> None:
        found = {"reward/mean": shaped.rewards[shaped.valid], "reward/static": shaped.static[shaped.valid]}
        for c, judged in enumerate(scores.mask.any(1).T):
            for kind, values in {"weight": shaped.weights, "saturation": shaped.saturation, **shaped.measures}.items():
                found[f"{kind}/{self.reward_func_names[c]}"] = values[judged, c]
        for key, values in found.items():
            if not (mean := values.double().nanmean()).isnan():
                self._measured[prefix + key].append(float(mean))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what the strategy made of the rewards, then what TRL logs."""
        for key in [key for key in self._measured if key.startswith("eval_") != self.model.training]:
            values = self._measured.pop(key)
            logs[key] = sum(values) / len(values)
        super().log(logs, start_time)


class _Column:
    def __init__(self, name: str, weight: float, judged: Callable[..., list[dict[str, float]]]) -> None:
        self.__name__, self.weight, self.judged = name, weight, judged

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [scores.get(self.__name__) for scores in self.judged(prompts, completions)]


def rubric_reward(rubrics: str | Path | Rubric, judge: Judge | None = None) -> list[_Column]:
    """Make reward functions of TRL from rubrics, one for each tag; a batch is judged once for all of them.

    A function gives the mean over the criteria of its tag (``axis:...``; one without stands under its own name), weighted by points, in
    [0, 1], faults turned round; None where none was judged.

    Args:
        rubrics: a rubric for every prompt, or a file of prompts with rubrics in any known format; a prompt is found by its text.
        judge: who judges; rules by default.

    Returns:
        The functions. ``weight`` of each is its mean share of the points, for ``reward_weights``.

    Raises:
        ValueError: for what the judge cannot judge, or a prompt that occurs twice; in training, for a prompt without a rubric.

    >>> from lightning_focal.rubrics import Criterion
    >>> calm = Criterion("calm", "", 2, tags=("axis:tone",), check="no_exclamation")
    >>> short = Criterion("short", "", 1, check={"kind": "max_words", "words": 2})
    >>> tone, brief = rubric_reward(Rubric((calm, short)))
    >>> tone.__name__, tone(prompts=["Hi"] * 2, completions=["Hello!", "Hello."]), round(brief.weight, 2)
    ('tone', [0.0, 1.0], 0.33)
    """
    judge, found = judge or RuleJudge(), dict[Any, Rubric]()
    if isinstance(rubrics, Rubric):
        for criterion in rubrics.criteria:
            judge.validate(criterion)
        found[None] = rubrics
    else:
        for row in pool_untagged(read_rows(rubrics, check=judge.validate)):
            if found.setdefault(_chat(row.messages), row.rubric) is not row.rubric:
                raise ValueError(f"{rubrics}: the prompt of {row.id!r} occurs twice; rubrics are told apart by their prompts")
    judge.prepare()
    last: dict[str, Any] = {}

    def judged(prompts: Sequence[Any], completions: Sequence[Any]) -> list[dict[str, float]]:
        batch = [(_chat(prompt), _text(completion)) for prompt, completion in zip(prompts, completions, strict=True)]
        if last.get("batch") != batch:
            if missing := [chat for chat, _ in batch if None not in found and chat not in found]:
                raise ValueError(f"{rubrics} has no rubric for the prompt {missing[0][-1][1][:60]!r}")
            asked = [
                JudgeRequest(tuple({"role": r, "content": c} for r, c in chat), text, (found.get(None) or found[chat]).criteria)
                for chat, text in batch
            ]
            last.update(batch=batch, scores=[_by_tag(*one) for one in zip(asked, judge.judge(asked), strict=True)])
        return list(last["scores"])

    shares: dict[str, float] = defaultdict(float)
    for rubric in found.values():
        for criterion, weight in zip(rubric.criteria, rubric.prior_weights, strict=True):
            shares[log_key(criterion.name, criterion.tags)] += weight / len(found)
    return [_Column(name, share, judged) for name, share in shares.items()]


def _chat(prompt: Any) -> tuple[tuple[str, str], ...]:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return tuple((str(turn["role"]), str(turn["content"])) for turn in turns)


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _by_tag(request: JudgeRequest, verdicts: Sequence[Verdict]) -> dict[str, float]:
    met: dict[str, float] = defaultdict(float)
    points: dict[str, float] = defaultdict(float)
    for criterion, verdict in zip(request.criteria, verdicts, strict=True):
        if (value := verdict.met(criterion)) is not None:
            key = log_key(criterion.name, criterion.tags)
            met[key] += abs(criterion.points) * (1 - value if criterion.is_fault else value)
            points[key] += abs(criterion.points)
    return {key: met[key] / points[key] for key in points if points[key]}
