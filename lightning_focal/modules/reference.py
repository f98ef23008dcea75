"""The policy that training is held close to."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_focal.callbacks.teacher import EMATeacher
from lightning_focal.models import adapters_off, has_adapters
from lightning_focal.models.weights import compute_device, eval_mode
from lightning_focal.precision import expect_dtype, resolved_dtype

__all__ = ["FrozenReference", "NoReference", "Reference", "TeacherReference"]


class Reference(ABC):
    """Provides the model whose log-probabilities the KL term compares with.

    A reference is no part of the checkpoint unless it says so in ``state_dict``: a frozen one is made again from its source.
    """

    def attach(self, policy: nn.Module, teacher: EMATeacher | None = None) -> None:
        """Learn the policy, and the teacher where there is one, once, before a checkpoint is restored into them."""

    @property
    def active(self) -> bool:
        """False when there is nothing to compare with."""
        return True

    @abstractmethod
    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[nn.Module]:
        """Within the context, lend the reference model on the policy's device, in eval mode."""
        yield policy


class NoReference(Reference):
    """No reference: no second model, no KL term."""

    @property
    def active(self) -> bool:
        """Always False."""
        return False

    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[nn.Module]:
        """Refuse.

        Raises:
            RuntimeError: always; `model.update.kl_coef` needs a reference.
        """
        raise RuntimeError("a KL term needs a reference: set `model.reference: FrozenReference`, or `model.update.kl_coef: 0`")
        yield policy


class FrozenReference(Reference):
    """The policy as it was before training.

    With LoRA it is the same model with its adapters switched off; otherwise a copy.

    Args:
        dtype: of the copy; ``bfloat16`` halves its memory. ``auto``: bfloat16 where the device is quick at it, else float32. None =
            as the policy.
    """

    def __init__(self, dtype: str | None = None) -> None:
        expect_dtype("dtype", dtype)
        self.dtype = dtype
        self.copy: nn.Module | None = None

    def attach(self, policy: nn.Module, teacher: EMATeacher | None = None) -> None:
        """Copy the policy's weights, unless it has adapters to switch off."""
        if self.copy is not None or has_adapters(policy):
            return
        frozen = copy.deepcopy(policy).eval().requires_grad_(False)
        dtype = resolved_dtype(self.dtype, compute_device(policy))
        self.copy = frozen.to(getattr(torch, dtype)) if dtype else frozen

    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[nn.Module]:
        """See :class:`Reference`."""
        if self.copy is not None:
            device = next(policy.parameters()).device
            if next(self.copy.parameters()).device != device:
                self.copy.to(device)
            yield self.copy
            return
        with eval_mode(policy, autocast=True), adapters_off(policy) as plain:
            yield plain


class TeacherReference(Reference):
    """The slow teacher (arXiv:2508.00410: the reference of Co-rewarding-II): it keeps the policy close to its recent past.

    Needs :class:`~lightning_focal.callbacks.EMATeacher` among `trainer.callbacks`; no further copy is made.
    """

    def __init__(self) -> None:
        self._teacher: EMATeacher | None = None

    def attach(self, policy: nn.Module, teacher: EMATeacher | None = None) -> None:
        """Take the teacher.

        Raises:
            ValueError: when the run has none.
        """
        if teacher is None:
            raise ValueError(
                "`model.reference: TeacherReference` needs a teacher: add one to `trainer.callbacks`:\n"
                "  - class_path: lightning_focal.callbacks.EMATeacher"
            )
        self._teacher = teacher

    @contextmanager
    def model(self, policy: nn.Module) -> Iterator[nn.Module]:
        """See :class:`Reference`."""
        if self._teacher is None:
            raise RuntimeError("the reference has not met its teacher yet: `attach` runs when a Trainer starts")
        with self._teacher.use_weights(policy) as teacher:
            yield teacher
