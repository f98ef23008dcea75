"""Low-rank adapters, through peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Lora", "adapters_off", "apply_lora", "has_adapters"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation (arXiv:2106.09685): ``W + alpha / r * B A``, only ``A`` and ``B`` are trained.

    Args:
        r: rank, >= 1.
        alpha: scale of the update, > 0; the update is multiplied by ``alpha / r``.
        dropout: probability in [0, 1) of dropping an input of the adapter in training. Rollouts are sampled without dropout,
            so a value above 0 makes the first policy ratio differ from 1.
        target_modules: names of the linear layers to adapt, or ``"all-linear"`` for all but the output layer.

    Raises:
        ValueError: on a value out of range.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"`r` must be >= 1, got {self.r}")
        if not self.alpha > 0:
            raise ValueError(f"`alpha` must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}")
        if not self.target_modules:
            raise ValueError("`target_modules` must name at least one layer, got none")


def apply_lora(model: Any, lora: Lora) -> Any:
    """Freeze ``model`` and put trainable adapters into it.

    Returns:
        The wrapping ``peft.PeftModel``. Adapters start as the identity, so it computes what ``model`` computed.

    Raises:
        ImportError: without peft; the message names the extra.
        ValueError: if ``target_modules`` matches no layer, or ``model`` already has adapters.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'lightning-focal[lora]'") from error
    if has_adapters(model):
        raise ValueError("`model` already has adapters")
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = peft.LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM", bias="none"
    )
    empty = next(model.parameters()).is_meta  # then the adapters have no values either
    return peft.get_peft_model(model, config, low_cpu_mem_usage=empty)


def has_adapters(model: nn.Module) -> bool:
    """True for a model wrapped by :func:`apply_lora` (or by peft itself)."""
    return callable(getattr(model, "disable_adapter", None)) and hasattr(model, "peft_config")


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[nn.Module]:
    """Within the context ``model`` computes what it did before :func:`apply_lora`: the reference policy for free.

    Raises:
        TypeError: if ``model`` has no adapters: it would be compared with itself.
    """
    if not has_adapters(model):
        raise TypeError(f"`model` must have adapters (see `apply_lora`), got a plain {type(model).__name__}")
    with model.disable_adapter():  # type: ignore[operator]
        yield model
