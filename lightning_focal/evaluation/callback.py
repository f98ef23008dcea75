"""Evaluation of the live policy on tasks of lm-evaluation-harness, before, during and after training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_focal.callbacks.observer import batches_done
from lightning_focal.evaluation.harness import Tasks, evaluate_tasks, flat_scores, load_tasks, task_names
from lightning_focal.evaluation.model import policy_lm
from lightning_focal.files import set_aside_of, write_json
from lightning_focal.models import has_adapters
from lightning_focal.models.weights import RolloutCopy, eval_mode, is_sharded
from lightning_focal.modules.rng import rng_state, set_rng_state

__all__ = ["LMEval"]

_log = logging.getLogger(__name__)


class LMEval(Callback):
    """Puts tasks of lm-evaluation-harness to the policy as it is, and logs ``eval/<task>/<metric>``.

    The model is the one that is trained, in eval mode, without a copy on disk; adapters are merged into a copy as an export merges
    them, shards are gathered into one. So the scores are those of ``lightning_focal eval`` on the checkpoint. Random state and
    train mode are put back: a run with this callback trains the same policy as one without. Several processes share the questions.

    Tasks are looked up and their data is read before the policy is loaded. Results also go to ``lm_eval.json`` in the run folder
    and into the checkpoint: a resumed run does not evaluate again what it has evaluated.

    Args:
        tasks: names, and YAML files of tasks of one's own; a list, or one text with commas.
        every_n_batches: evaluate after every so many batches, too; None = not in between.
        limit: questions a task; below 1 a share of them; None = all.
        at_start: evaluate before the first update.
        at_end: evaluate after the last one, unless that has just been done.
        batch_size: questions at once.
        num_fewshot: worked examples before each question; None = as the task says.
        apply_chat_template: put questions as chats, as in training.
        system_instruction: before every chat.
        max_length: context in tokens; the policy's own by default.
        include_path: a folder whose YAML files are added to the names.
        allow_code: run tasks that execute what the policy writes (CRUXEval, HumanEval, MBPP).

    Attributes:
        history: one entry an evaluation: ``batch``, and ``scores`` by ``<task>/<metric>``.

    Raises:
        ValueError: for arguments out of range; when a run is set up, for a task that is not known or whose data is not there.
    """

    def __init__(
        self,
        tasks: str | Sequence[str],
        every_n_batches: int | None = None,
        limit: float | None = None,
        at_start: bool = True,
        at_end: bool = True,
        batch_size: int = 16,
        num_fewshot: int | None = None,
        apply_chat_template: bool = True,
        system_instruction: str | None = None,
        max_length: int | None = None,
        include_path: str | None = None,
        allow_code: bool = False,
    ) -> None:
        if every_n_batches is not None and every_n_batches < 1:
            raise ValueError(f"`every_n_batches` must be None or >= 1, got {every_n_batches}")
        if limit is not None and limit <= 0:
            raise ValueError(f"`limit` must be None or > 0, got {limit}")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be >= 1, got {batch_size}")
        self.tasks, self.every_n_batches, self.limit = task_names(tasks), every_n_batches, limit
        self.at_start, self.at_end, self.batch_size, self.max_length = at_start, at_end, batch_size, max_length
        self.include_path, self.allow_code = include_path, allow_code
        self.options: dict[str, Any] = {"num_fewshot": num_fewshot, "apply_chat_template": apply_chat_template}
        self.options["system_instruction"] = system_instruction
        self.history: list[dict[str, Any]] = []
        self._loaded: Tasks | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look the tasks up and read their data, before any weight is read."""
        if stage != "fit" or self._loaded is not None:
            return
        with _as_before(None):
            self._loaded = load_tasks(self.tasks, include_path=self.include_path, allow_code=self.allow_code)
        for name, reason in self._loaded.missing.items():
            _log.warning("not evaluated: %s: %s", name, reason)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate before training, unless a checkpoint already holds that result; what was written behind it is set aside."""
        folder = trainer.log_dir  # a collective: asked for on every process
        if trainer.is_global_zero and folder is not None:
            place = set_aside_of(trainer, folder, batches_done(trainer))
            place.keep_longer(Path(folder) / "lm_eval.json", "evaluations", len(self.history))
        if self.at_start and not self.history and not batches_done(trainer):
            self.evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Evaluate where it is time to."""
        if self.every_n_batches is not None and batches_done(trainer) % self.every_n_batches == 0:
            self.evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate after training."""
        if self.at_end and not (self.history and self.history[-1]["batch"] == batches_done(trainer)):
            self.evaluate(trainer, pl_module)

    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Evaluate the policy now; every process takes part, and gets the scores by ``<task>/<metric>``."""
        module: Any = pl_module
        policy, tasks = module.policy, self._loaded
        if policy is None or tasks is None:
            raise RuntimeError("the policy is not loaded yet: evaluation belongs into a run")
        shared = tasks.documents(self.limit) >= trainer.world_size
        place = (trainer.global_rank, trainer.world_size) if shared else (0, 1)
        with _as_before(policy):
            whole = RolloutCopy(policy, None).model if has_adapters(policy) or is_sharded(policy) else policy
            lm = policy_lm(whole, module.tokenizer, batch_size=self.batch_size, max_length=self.max_length, place=place)
            results = evaluate_tasks(
                lm, tasks, limit=self.limit, bootstrap_iters=1000, allow_code=self.allow_code, **self.options
            )
        scores: dict[str, float] = trainer.strategy.broadcast(flat_scores(results))
        for logger in trainer.loggers:
            logger.log_metrics({f"eval/{name}": value for name, value in scores.items()}, step=batches_done(trainer))
        self.history.append({"batch": batches_done(trainer), "scores": scores})
        folder = trainer.log_dir  # a collective: asked for on every process
        if trainer.is_global_zero and folder is not None:
            settings = {"tasks": self.tasks, "limit": self.limit, **self.options}
            write_json(Path(folder) / "lm_eval.json", {"settings": settings, "evaluations": self.history})
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history back."""
        self.history = list(state_dict["history"])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}


@contextmanager
def _as_before(policy: nn.Module | None) -> Iterator[None]:
    """Within the context the policy, if there is one, is in eval mode; that and the random state are put back."""
    state = rng_state()
    try:
        with (
            torch.inference_mode(False),
            nullcontext() if policy is None else eval_mode(policy),
        ):  # a kept tensor of inference mode breaks a later backward
            yield
    finally:
        set_rng_state(state)
