"""What a policy's configuration says about its own training: dropout, router noise and the loss of its router."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from lightning_focal.models.weights import bare_model

__all__ = ["dropout_of", "has_router_loss", "stored_config", "switch_off_dropout", "training_words"]

_MARKS = ("drop", "jitter")
_RECORD = "switched_off"
_ROUTER = "output_router_logits"


def dropout_of(config: Any) -> dict[str, float]:
    """Return what a configuration draws at random in training, by key: probabilities of dropout, widths of router noise.

    >>> from transformers import GPT2Config
    >>> dropout_of(GPT2Config(embd_pdrop=0.0))
    {'resid_pdrop': 0.1, 'attn_pdrop': 0.1}
    """
    text = config.get_text_config()
    return {name: float(value) for name, value in vars(text).items() if _is_noise(name, value) and not name.startswith("summary")}


def switch_off_dropout(model: nn.Module) -> dict[str, float]:
    """Set every dropout and router noise of a model to 0, in its layers and in its configuration.

    A training mode that drops units computes another policy than the one that sampled, and other log-probabilities in every pass.
    Router logits are asked for by whoever wants them, not by the configuration. An export still holds the configuration as it came,
    see :func:`stored_config`.

    >>> from lightning_focal.models import load_policy
    >>> switch_off_dropout(load_policy("random:tiny-llama?layers=1")[0])
    {}
    """
    config: Any = model.config
    found, text = dropout_of(config), config.get_text_config()
    changed: dict[str, Any] = dict(found)
    for name in found:
        setattr(text, name, 0.0)
    if getattr(text, _ROUTER, False):
        setattr(text, _ROUTER, False)
        changed[_ROUTER] = True
    if changed:
        setattr(config, _RECORD, changed)
    for module in model.modules():
        for name in [*_noisy(module)]:
            setattr(module, name, 0.0)
    return found


def stored_config(config: Any) -> Any:
    """Return a configuration as it came, dropout included; the one given is changed."""
    for name, value in vars(config).pop(_RECORD, {}).items():
        setattr(config.get_text_config(), name, value)
    return config


def has_router_loss(policy: nn.Module) -> bool:
    """Say whether a policy can compute the load-balancing loss of its router, as mixtures of experts do."""
    model = bare_model(policy)
    takes = _ROUTER in inspect.signature(model.forward).parameters
    return takes and hasattr(model.config.get_text_config(), "router_aux_loss_coef")


def training_words(policy: nn.Module, router_aux_coef: float | None = None) -> list[str]:
    """Say what of a policy's own training is off or on, for the first line of a run; nothing where it has no such thing."""
    config = bare_model(policy).config
    off = {name: value for name, value in vars(config).get(_RECORD, {}).items() if name != _ROUTER}
    words = [
        f"dropout {state} ({', '.join(f'{name} {value:g}' for name, value in found.items())})"
        for state, found in (("off", off), ("on", dropout_of(config)))
        if found
    ]
    if router_aux_coef is not None and has_router_loss(policy):
        words.append(f"router's loss {f'times {router_aux_coef:g}' if router_aux_coef else 'off'}")
    return words


def _noisy(module: nn.Module) -> Iterator[str]:
    for name, value in vars(module).items():
        if _is_noise(name, value) or (name == "p" and "Dropout" in type(module).__name__):
            yield name


def _is_noise(name: str, value: object) -> bool:
    return isinstance(value, float) and value > 0 and any(mark in name for mark in _MARKS)
