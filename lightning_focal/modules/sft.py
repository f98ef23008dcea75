"""Supervised warm start: a policy learns demonstrations until it solves part of its task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_focal.generation import Generator, HFGenerator, Sampling
from lightning_focal.models import dummy_forward, encode_chat, reshard, response_logp, rows_in_words
from lightning_focal.models.dropout import training_words
from lightning_focal.modules.clipping import clip_global_norm
from lightning_focal.modules.demonstrations import encode_demonstrations
from lightning_focal.modules.grading import VIEWS, add_grades, first_questions
from lightning_focal.modules.measures import Means
from lightning_focal.modules.policy_module import PolicyModule, precision_words
from lightning_focal.modules.schedule import WarmupCosine, make_optimizers
from lightning_focal.seeds import prompt_seed
from lightning_focal.types import Prompts, Rollouts

__all__ = ["SFTModule"]

_log = logging.getLogger(__name__)


class SFTModule(PolicyModule):
    """Supervised learning of a causal language model on demonstrations, for a policy that reinforcement learning can start from.

    The loss is the cross-entropy of the response's tokens (its eos included), averaged over the tokens of an optimiser step, of all
    processes and accumulated batches. Optimisation is Lightning's own: ``trainer.gradient_clip_val``,
    ``trainer.accumulate_grad_batches`` and ``trainer.precision`` apply.

    Held-out questions are also answered, as in reinforcement learning, and graded by the scorer their task brings
    (``Prompts.graders``): ``val/accuracy/original``, ``val/accuracy/rephrased`` where rephrasings are held out, and the lower of
    the two, ``val/accuracy/worst``; see :func:`~lightning_focal.modules.grading.add_grades`.

    Args:
        policy: where the policy comes from, as for :class:`~lightning_focal.modules.GRPOModule`.
        val_questions: held-out prompts answered in a validation, over all processes; 0 = none.
        val_group_size: responses to each of them.
        val_sampling: how they are drawn.
        generator: who answers; transformers in this process by default.
        optimizer: makes the optimiser from parameters; AdamW with lr 1e-4 and no weight decay by default.
        lr_scheduler: makes the scheduler from the optimiser, stepped once an optimiser step; constant by default.
        max_response_tokens: longest demonstration, its eos included; None = any.
        options: of :class:`~lightning_focal.modules.policy_module.PolicyModule`: ``lora``, ``dtype``, ``chat`` and others.
    """

    def __init__(
        self,
        policy: str,
        val_questions: int = 64,
        val_group_size: int = 4,
        val_sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        generator: Generator | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        max_response_tokens: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(policy, **options)
        if val_questions < 0 or val_group_size < 1:
            raise ValueError(
                f"`model.val_questions` must be >= 0 and `model.val_group_size` >= 1, got {val_questions} and {val_group_size}"
            )
        self.val_questions, self.val_group_size = val_questions, val_group_size
        self.val_sampling, self.generator = val_sampling, generator or HFGenerator()
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self.max_response_tokens = max_response_tokens
        self._means, self._asked, self._told = Means(), 0, False
        self._step_tokens: list[Tensor] = []  # of each batch since the last optimiser step, a mean over processes

    def configure_optimizers(self) -> Any:
        """Make the optimiser over trainable parameters, and the scheduler; both come from the config as callables."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        return make_optimizers(parameters, self._optimizer, self._lr_scheduler, lr=1e-4, unit="optimiser steps")

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the norm over all shards; Lightning has none under its ``FSDPStrategy``."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            clip_global_norm(self.model, float(gradient_clip_val))
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Fit the schedule to the run's length, and restore the random state last."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, WarmupCosine):
            scheduler.begin(int(min(self.trainer.estimated_stepping_batches, 2**31)))
        self.restore_random_state()  # dropout in adapters draws from it

    def describe(self) -> str:
        """Say what computes answers and updates, and in which precision."""
        answers = f"answers: {self.generator.describe(self.model)} · " if self.val_questions else ""
        update = f"{answers}update: {rows_in_words(self.model, packed=False)}, {precision_words(self.trainer)}"
        return " · ".join([update, *training_words(self.model)])

    # -- learning ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Prompts, batch_idx: int) -> Tensor:
        """Cross-entropy of the demonstrations; with accumulated batches, over the tokens of the first of them."""
        total, tokens = self._cross_entropy(batch)
        mean = self.processes.mean(tokens.float())  # gradients are averaged over processes
        self._step_tokens.append(mean)
        loss = total / mean
        rate = float(cast(Any, self.optimizers()).param_groups[0]["lr"])
        self.log_dict(
            {"train/loss/total": self.processes.mean(loss.detach()), "train/policy/lr": rate}, batch_size=max(1, len(batch))
        )
        return loss if len(self._step_tokens) == 1 else total / self._step_tokens[0]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Make the gradient that of the mean over the tokens of all accumulated batches."""
        if self.trainer.accumulate_grad_batches > 1:  # Lightning has divided each batch's loss by this number
            share = self.trainer.accumulate_grad_batches * self._step_tokens[0] / torch.stack(self._step_tokens).sum()
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(share.to(parameter.grad.dtype))
        self._step_tokens.clear()

    def _cross_entropy(self, batch: Prompts) -> tuple[Tensor, Tensor]:
        """Sum over the response's tokens in nats, and their number."""
        encoded = encode_demonstrations(self.tokenizer, batch, self.max_response_tokens, thinks=self.chat.thinking != "off")
        tokens = [tensor.to(self.device) for tensor in encoded]
        if self.trainer.training:
            self.prove_once(tokens)
        if not len(tokens[0]):  # a process that was given no prompt keeps the others company
            return dummy_forward(self.model), torch.zeros((), device=self.device)
        return -response_logp(self.model, *tokens).sum(), tokens[3].sum()

    # -- held-out questions -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Hand the weights to the generator."""
        self._means, self._asked = Means(), 0
        if self.val_questions:
            # inference_mode(False): a tensor made in inference mode, the generator's copy of the weights say, breaks a later backward
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self.generator.sync(self.model, self.trainer.global_step)

    def validation_step(self, batch: Prompts, batch_idx: int) -> None:
        """Loss of the demonstrations, and grades of own answers to as many questions as asked for."""
        self._means.add_sums("val/loss/total", *self._cross_entropy(batch))
        reshard(self.model)
        left = -(-self.val_questions // self.processes.count) - self._asked
        if left > 0:
            asked = first_questions(batch, left)
            self._asked += len(set(asked.questions or asked.ids))
            self._tell_once(add_grades(self._means, self._answers(asked)))

    def _tell_once(self, failures: Sequence[str]) -> None:
        if failures and not self._told:
            self._told = True
            _log.warning(
                "the scorer of held-out questions failed on %d answers (the first: %s): such answers are left out of "
                "`val/accuracy` and `val/majority`, never counted as wrong; not said again",
                len(failures),
                failures[0],
            )

    def _answers(self, prompts: Prompts) -> Rollouts:
        prompts = replace(prompts, tokens=tuple(encode_chat(self.tokenizer, messages) for messages in prompts.messages))
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            rollouts = self.generator.generate(
                self.model,
                self.tokenizer,
                prompts,
                group_size=self.val_group_size,
                seeds=[self._seed(name) for name in prompts.ids],
                sampling=self.val_sampling,
            )
        return self.chat.mark(rollouts)

    def _seed(self, prompt_id: str) -> int:
        """Return the same seed for a prompt in every validation: evaluations are paired."""
        return prompt_seed(self.seed, "val", 0, prompt_id)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the held-out questions; what is not known is left out."""
        found = {name: mean for name, mean in self._means.compute(self.processes.sum).items() if mean == mean}
        for area in ("accuracy", "majority"):
            views = [found[f"val/{area}/{view}"] for view in VIEWS if f"val/{area}/{view}" in found]
            if views:
                found[f"val/{area}/worst"] = min(views)
        self.log_dict(found, sync_dist=True)  # the same on every process already
