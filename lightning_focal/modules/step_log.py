"""Logging a training batch without paying Lightning's price for every value."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule, Trainer

__all__ = ["log_step"]

_log = logging.getLogger(__name__)
_quick: WeakKeyDictionary[Trainer, bool] = WeakKeyDictionary()
"""Whether the quick way was seen to work in a Trainer; the first batch that takes it is looked at."""


class _OtherInsides(Exception):
    """Lightning keeps logged values in another way than this file knows."""


def log_step(module: LightningModule, values: Mapping[str, float], batch_size: int) -> None:
    """Do what ``log_dict`` does in `training_step`, at a twentieth of its cost a value.

    ``log_dict`` takes a good part of a millisecond a name and batch, most of it to find out what it knows from the batch before; a
    rubric of 64 criteria has six hundred names. Only what goes through ``log`` or ``log_dict`` gets into the row that Lightning
    writes behind the batch, together with what others log. So the first batch of an epoch, and one with a new name, go through it;
    otherwise the values are put where it would have put them. That is inside Lightning: where a version keeps them elsewhere, or
    ``trainer.logged_metrics`` does not show them afterwards, this is said once and every batch goes through ``log_dict``.

    Args:
        module: in `training_step`, called once a batch.
        values: by name.
        batch_size: prompts in the batch.
    """
    trainer = module.trainer
    if _quick.get(trainer, True):
        try:
            if _put(module, values, batch_size):
                if trainer not in _quick:
                    _check(trainer, values)
                    _quick[trainer] = True
                return
        except (AttributeError, KeyError, TypeError, _OtherInsides) as error:
            _quick[trainer] = False
            _log.warning("every value is logged by log_dict, which takes longer: Lightning's insides are others here (%s)", error)
    module.log_dict(dict(values), batch_size=batch_size, rank_zero_only=False)


def _put(module: LightningModule, values: Mapping[str, float], batch_size: int) -> bool:
    """Put values where the first ``log_dict`` of the epoch put them; False where there was none, or not of all of them."""
    trainer: Any = module.trainer
    first = trainer._logger_connector._first_loop_iter
    if not isinstance(first, bool):
        raise _OtherInsides(f"`_first_loop_iter` is {first!r} within a batch")
    known = [trainer._results.get(f"training_step.{name}") for name in values]
    if first or any(metric is None for metric in known):
        return False
    if not all(hasattr(metric, "has_reset") for metric in known):
        raise _OtherInsides("no `has_reset`")
    row = torch.tensor(list(values.values()), dtype=torch.get_default_dtype(), device=module.device)
    for metric, value in zip(known, row.unbind(), strict=True):
        metric.forward(value, batch_size)
        metric.has_reset = False
    return True


def _check(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Look at what Lightning is going to write."""
    shown = trainer.logged_metrics
    found = torch.tensor([float(shown[name]) for name in values], dtype=torch.get_default_dtype())
    wanted = torch.tensor(list(values.values()), dtype=torch.get_default_dtype())
    if not torch.allclose(found, wanted, rtol=0.0, atol=0.0, equal_nan=True):
        raise _OtherInsides("values that were put do not show")
