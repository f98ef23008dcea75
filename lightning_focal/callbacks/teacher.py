"""The slow teacher: an exponential moving average of the policy (arXiv:2508.00410 eq. 9-11)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_focal.functional.ema import cosine_ema_weight, ema_update
from lightning_focal.models.weights import eval_mode, flat_units, is_flat

__all__ = ["EMATeacher", "TeacherWeights", "find_teacher", "match_teachers"]


class TeacherWeights(nn.Module):
    """The averages, float32: of the whole policy, or of what is trained of it.

    A policy that is trained as a whole is copied, so that teacher and policy can be used at once. Where some of it is frozen
    (low-rank adapters), only the trained parameters are averaged, and put in the policy's place for as long as the teacher is
    used. Tied weights exist once. As part of the LightningModule the averages are moved, sharded and checkpointed by Lightning.

    Args:
        policy: what to average, as it is before training.
        offload: keep the averages in main memory while they are not used.

    Raises:
        ValueError: if nothing of the policy is trained.
    """

    def __init__(self, policy: nn.Module, offload: bool = False) -> None:
        super().__init__()
        self.offload = offload
        trained = _trained(policy)
        if not trained:
            raise ValueError("a teacher needs a policy with parameters that are trained, got one that is frozen")
        whole = len(trained) == len(list(policy.parameters()))
        self.model = copy.deepcopy(policy).float().eval().requires_grad_(False) if whole else None
        self.averages = None if whole else nn.ParameterList(nn.Parameter(p.detach().float().clone(), False) for p in trained)

    def parts(self) -> list[Tensor]:
        """Return the averages in the order of the policy's trained parameters."""
        return list(self.model.parameters()) if self.model is not None else list(self.averages or [])

    @torch.no_grad()
    def update(self, policy: nn.Module, weight: float) -> None:
        """``teacher <- weight * teacher + (1 - weight) * policy``, in float32, each process its shards."""
        trained = _trained(policy)
        if self.averages is not None and is_flat(policy):  # adapters are small: every process keeps their averages whole
            trained = _whole(policy, trained)
        ema_update(self.parts(), trained, weight)

    @contextmanager
    def use_weights(self, policy: nn.Module) -> Iterator[nn.Module]:
        """Within the context use the teacher on the policy's device, in eval mode; the policy is left as it was."""
        if self.model is not None and is_flat(self.model):  # is where it was put when it was wrapped
            yield self.model.eval()
            return
        if self.model is not None:
            device = next(policy.parameters()).device
            if next(self.model.parameters()).device != device:
                self.model.to(device)
            yield self.model.eval()
            if self.offload:
                self.model.to("cpu")
            return
        trained = _trained(policy)
        own = _whole(policy, trained) if is_flat(policy) else [parameter.detach().clone() for parameter in trained]
        try:
            _overwrite(policy, trained, self.parts())
            with eval_mode(policy, autocast=True):
                yield policy
        finally:
            _overwrite(policy, trained, own)
            torch.clear_autocast_cache()  # may hold the teacher's weights under the policy's names


def _trained(policy: nn.Module) -> list[Tensor]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


@torch.no_grad()
def _whole(policy: nn.Module, parameters: list[Tensor]) -> list[Tensor]:
    """Gather copies of some parameters of a policy under FSDP."""
    wanted = {id(parameter) for parameter in parameters}
    found = {id(p): p.detach().clone() for unit in flat_units(policy) for _, p in unit if id(p) in wanted}
    return [found[id(parameter)] for parameter in parameters]


@torch.no_grad()
def _overwrite(policy: nn.Module, parameters: list[Tensor], values: list[Tensor]) -> None:
    whole = {id(parameter): value for parameter, value in zip(parameters, values, strict=True)}
    units = flat_units(policy, writeback=True) if is_flat(policy) else [[("", parameter) for parameter in parameters]]
    for unit in units:
        for _, parameter in unit:
            if id(parameter) in whole:
                parameter.copy_(whole[id(parameter)])


class EMATeacher(Callback):
    r"""Keeps a teacher beside the policy and moves it once a rollout batch, after the policy's rollouts and before its own.

    ``teacher <- a_k teacher + (1 - a_k) policy``, ``a_k = end - (end - start) / 2 (1 + cos(pi k / K))`` (released code of
    arXiv:2508.00410 with the paper's end points): ``a = start`` in the first batch of a run, ``end`` in its last. In float32,
    whatever the policy's precision: a ten-thousandth vanishes in bfloat16.

    :class:`~lightning_focal.rewards.CoRewardingII` lets it answer; ``model.reference: TeacherReference`` measures the KL term
    against it. It is part of the checkpoint, so a resumed run goes on with the same teacher. Lightning's own ``WeightAveraging``
    is no substitute: it puts the average in the policy's place in checkpoints and validation, has no schedule, and cannot be used
    beside the policy.

    Args:
        start: weight of the old teacher in the first batch, in [0, 1].
        end: weight in the last, ``start <= end <= 1``.
        update_every: move it every so many batches; in between it stands still.
        offload: keep it in main memory while it is not needed; saves 4 bytes a parameter on the device, costs two transfers a batch.
        total_batches: length of the schedule, for runs without a planned end; the run's own by default.

    Raises:
        ValueError: for an argument out of range.

    >>> EMATeacher(start=0.999, end=0.9)
    Traceback (most recent call last):
    ...
    ValueError: `start` and `end` must be 0 <= start <= end <= 1, got 0.999 and 0.9
    """

    def __init__(
        self,
        start: float = 0.99,
        end: float = 0.9999,
        update_every: int = 1,
        offload: bool = False,
        total_batches: int | None = None,
    ) -> None:
        if not 0 <= start <= end <= 1:
            raise ValueError(f"`start` and `end` must be 0 <= start <= end <= 1, got {start} and {end}")
        if update_every < 1:
            raise ValueError(f"`update_every` must be >= 1 batches, got {update_every}")
        if total_batches is not None and total_batches < 1:
            raise ValueError(f"`total_batches` must be >= 1, got {total_batches}")
        self.start, self.end, self.update_every, self.offload = start, end, update_every, offload
        self.total_batches = total_batches
        self.weights: TeacherWeights | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a run whose length, and so whose schedule, is not known: ValueError without an end and without ``total_batches``."""
        endless = trainer.max_epochs == -1 and trainer.max_steps == -1
        if stage == "fit" and endless and self.total_batches is None:
            raise ValueError("`EMATeacher.total_batches` must be given for a run without end (`trainer.max_epochs: -1`)")

    def attach(self, policy: nn.Module) -> TeacherWeights:
        """Make the teacher from the policy as it is before training, or return the one there is."""
        if self.weights is None:
            self.weights = TeacherWeights(policy, self.offload)
        return self.weights

    def advance(self, policy: nn.Module, batch: int, planned: int | None) -> float:
        """Move the teacher towards the policy where it is time to; returns the weight ``a_k`` of the old teacher, 1 where it was left alone."""
        if batch % self.update_every:
            return 1.0
        total = self.total_batches or planned or 1
        weight = cosine_ema_weight(batch, max(total - 1, 1), self.start, self.end)
        self._weights.update(policy, weight)
        return weight

    @contextmanager
    def use_weights(self, policy: nn.Module) -> Iterator[nn.Module]:
        """Within the context use the teacher, see :meth:`TeacherWeights.use_weights`."""
        with self._weights.use_weights(policy) as model:
            yield model

    @property
    def _weights(self) -> TeacherWeights:
        if self.weights is None:
            raise RuntimeError("the teacher is made with the policy, when a Trainer starts")
        return self.weights

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "weights": None}


def find_teacher(trainer: Trainer) -> EMATeacher | None:
    """Return the one teacher among the trainer's callbacks, or None; ValueError for more than one."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, EMATeacher)]  # type: ignore[attr-defined]
    if len(found) > 1:
        raise ValueError(f"`trainer.callbacks` holds {len(found)} EMATeachers, at most one is needed")
    return found[0] if found else None


def match_teachers(teacher: EMATeacher | None, checkpoint: dict[str, Any], resumed: bool) -> None:
    """See that run and checkpoint agree about having a teacher; ValueError where one has a teacher that the other lacks.

    Where nothing is trained (``resumed`` False) and the run has none, the checkpoint's teacher is left out.
    """
    weights = checkpoint.get("state_dict")
    if weights is None:  # sharded: restored in place, by name
        return
    held = [name for name in weights if name.startswith("teacher.")]
    if teacher is not None and not held:
        raise ValueError(
            "the checkpoint holds no teacher, this run has an EMATeacher: the teacher's past cannot be made up; resume without it, "
            "or start a new run from the weights alone"
        )
    if teacher is None and held:
        if resumed:
            raise ValueError("the checkpoint holds a teacher, this run has none: add EMATeacher to `trainer.callbacks`")
        for name in held:
            del weights[name]
