"""The held-out score before, during and after training, with intervals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts, batches_done
from lightning_focal.files import set_aside_of, write_json
from lightning_focal.functional import weighted_reward
from lightning_focal.intervals import bootstrap_interval, paired_interval, parted

__all__ = ["HeldOut", "find_held_out", "prompt_scores"]

_log = logging.getLogger(__name__)


def prompt_scores(scored: ScoredRollouts) -> dict[str, float]:
    """Return the mean prior-weighted static score over each prompt's valid rollouts, by prompt id (NaN where none is valid).

    It is the yardstick that no weighting optimises by construction, whatever the strategy's own base weights are.
    """
    scores = scored.scores
    static = weighted_reward(scores.scores, scores.weights, scores.mask)
    valid = scores.judged(scores.weights)
    means = torch.where(valid, static, torch.nan).nanmean(-1)
    return dict(zip(scored.rollouts.prompts.ids, means.tolist(), strict=True))


def second_scores(scored: ScoredRollouts) -> dict[str, float]:
    """Return :func:`prompt_scores` by the held-out judge; empty where there is none."""
    seen = scored.scores.measures.get("held_out_judge/mean")
    return {} if seen is None else dict(zip(scored.rollouts.prompts.ids, seen.nanmean(-1).tolist(), strict=True))


class HeldOut(RolloutObserver):
    """Keeps the score of every prompt at each validation, and adds one before and one after training.

    Each time the same prompts are answered with the same seeds, so differences pair up prompt by prompt. Results go to the loggers
    under ``val/held_out/``, to ``held_out.json`` in the run folder, and into the checkpoint: a resumed run keeps the score from before
    training. ``trainer.val_check_interval`` says how often to validate in between; ``val/held_out/mean`` can be monitored.

    Where the strategy has a `held_out_judge` its scores are kept beside, with ``val/held_out_judge/low`` and ``/high``, and a warning says
    when the two part: since an earlier evaluation the score by the training judge has risen and that by the other one has fallen, and
    neither interval includes 0.

    Args:
        at_start: answer the held-out prompts before the first update.
        at_end: answer them after the last update, unless the Trainer has just done so.
        level: coverage of the bootstrap intervals over prompts.

    Attributes:
        history: one entry an evaluation: ``batch``, ``scores`` by prompt id, ``measures`` as logged; ``held_out_judge``, scores by
            prompt id, where there is such a judge.
    """

    def __init__(self, at_start: bool = True, at_end: bool = True, level: float = 0.95) -> None:
        if not 0 < level < 1:
            raise ValueError(f"`level` must be in (0, 1), got {level}")
        self.at_start, self.at_end, self.level = at_start, at_end, level
        self.history: list[dict[str, Any]] = []
        self._scores: dict[str, float] = {}
        self._second: dict[str, float] = {}

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """Collect the scores of held-out prompts."""
        if scored.stage == "val" and not trainer.sanity_checking:
            self._scores |= prompt_scores(scored)
            self._second |= second_scores(scored)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer before training, unless a checkpoint already holds that score; what was written behind it is set aside."""
        folder = trainer.log_dir  # a collective: asked for on every process
        if trainer.is_global_zero and folder is not None:
            place = set_aside_of(trainer, folder, batches_done(trainer))
            place.keep_longer(Path(folder) / "held_out.json", "evaluations", len(self.history))
        if self.history:
            self._write(trainer)
        elif self.at_start:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer after training."""
        if self.at_end and not (self.history and self.history[-1]["batch"] == batches_done(trainer)):
            self._evaluate(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted validation left."""
        self._scores, self._second = {}, {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log mean and interval of the Trainer's own validation."""
        self._gather(trainer)  # also by a process that was given no prompt
        if self._scores:
            pl_module.log_dict(self._measures(), sync_dist=trainer.world_size > 1)  # the same everywhere already

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the result of the Trainer's own validation."""
        if self._scores:
            self._keep(trainer, {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})

    def _evaluate(self, trainer: Trainer, pl_module: Any) -> None:
        loader, count = self.batches(trainer)
        if not count:
            return
        self._scores, self._second, means = {}, {}, None
        for batch_idx, batch in zip(range(count), loader, strict=False):
            means = pl_module.evaluate(batch, "val", batch_idx, means)
            for callback in trainer.checkpoint_callbacks:
                if hasattr(callback, "leave_if_asked"):  # a run that was asked to end need not finish this
                    callback.leave_if_asked(trainer)
        self._gather(trainer)
        measures = pl_module.finish_evaluation(means) | self._measures()
        for logger in trainer.loggers:
            logger.log_metrics(measures, step=batches_done(trainer))
        self._keep(trainer, measures)

    @staticmethod
    def batches(trainer: Trainer) -> tuple[Any, int]:
        """Return the held-out batches of an evaluation, and how many of them `trainer.limit_val_batches` leaves."""
        datamodule, limit = getattr(trainer, "datamodule", None), getattr(trainer, "limit_val_batches", None)
        loader = datamodule.val_dataloader() if datamodule is not None else []
        return loader, min(len(loader), limit) if isinstance(limit, int) else int(len(loader) * (1.0 if limit is None else limit))

    def _measures(self) -> dict[str, float]:
        mean, low, high = bootstrap_interval(list(self._scores.values()), self.level)
        measures = {"val/held_out/mean": mean, "val/held_out/low": low, "val/held_out/high": high}
        if self._second:
            _, low, high = bootstrap_interval(list(self._second.values()), self.level)
            measures |= {"val/held_out_judge/low": low, "val/held_out_judge/high": high}
        return measures

    def _gather(self, trainer: Trainer) -> None:
        both = _gathered(trainer, {key: (score, self._second.get(key)) for key, score in self._scores.items()})
        self._scores = {key: score for key, (score, _) in both.items()}
        self._second = {key: second for key, (_, second) in both.items() if second is not None}

    def _keep(self, trainer: Trainer, measures: dict[str, float]) -> None:
        entry = {"batch": batches_done(trainer), "scores": self._scores, "measures": measures}
        self.history.append(entry | ({"held_out_judge": self._second} if self._second else {}))
        self._scores, self._second = {}, {}
        self._write(trainer)
        if trainer.is_global_zero and (said := parted(self.history, self.level)) is not None:
            _log.warning("%s", said)

    def _write(self, trainer: Trainer) -> None:
        folder = trainer.log_dir  # a collective: asked for on every process
        if trainer.is_global_zero and folder is not None:
            write_json(Path(folder) / "held_out.json", {"level": self.level, "evaluations": self.history})

    def interval(self, index: int) -> tuple[float, float, float]:
        """Return mean and interval of an evaluation, by its place in :attr:`history`."""
        return bootstrap_interval(list(self.history[index]["scores"].values()), self.level)

    def difference(self) -> tuple[float, float, float]:
        """Return mean and interval of the paired difference, last evaluation minus first, over prompts."""
        return paired_interval(self.history[0]["scores"], self.history[-1]["scores"], self.level)

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"history": list(self.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history back."""
        self.history = list(state_dict["history"])


def find_held_out(trainer: Trainer) -> HeldOut | None:
    """Return the first :class:`HeldOut` among the trainer's callbacks, if any."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, HeldOut)), None)  # type: ignore[attr-defined]


def _gathered(trainer: Trainer, scores: dict[str, Any]) -> dict[str, Any]:
    """Scores of all processes, sorted by prompt id."""
    parts: list[Any] = [scores]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, scores)
    return dict(sorted({key: value for part in parts for key, value in part.items()}.items()))
