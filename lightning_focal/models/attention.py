"""An attention of our own beside transformers' ``sdpa``, through its public ``AttentionInterface``: it heeds a layout of the row."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from lightning_focal.foreign import attention_name

__all__ = ["Layout", "has_layouts", "use_layouts", "use_own_attention"]

_NAME = "lightning_focal"


class Layout(Protocol):
    """What a model's call may be given as ``layout=...``: who attends to whom, where a mask cannot say it as quickly."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
        """Attend: ``[N, heads, S, dim]`` queries, keys and values of fewer heads perhaps, ``[N, S, heads, dim]`` returned."""


def use_layouts(model: Any) -> str | None:
    """Let a model take layouts, and otherwise attend by ``sdpa`` as it did.

    Returns:
        The reason why it cannot, or None.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    if not hasattr(model, "set_attn_implementation"):
        return "its attention cannot be replaced"
    before = attention_name(model)
    if before not in ("sdpa", _NAME):
        return f"its `attn_implementation` is {before}, not sdpa"
    if before == "sdpa":
        model.set_attn_implementation(_NAME)
    return None if has_layouts(model) else "its attention cannot be replaced"


def use_own_attention(model: Any) -> None:
    """Let a model attend by ``sdpa`` alone, as it did before :func:`use_layouts`."""
    if has_layouts(model):
        model.set_attn_implementation("sdpa")


def has_layouts(model: Any) -> bool:
    """Say whether a model takes layouts."""
    return attention_name(model) == _NAME


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if layout is not None:
        if (window := kwargs.get("sliding_window")) is not None:
            raise ValueError(f"a layer attends within a window of {window} tokens")
        if attention_mask is not None and attention_mask.is_floating_point():
            raise ValueError("a layer makes a mask of its own")
        return layout.attend(query, key, value, dropout, scaling), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    made: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return made
