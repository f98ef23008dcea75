"""Pieces of decoder layers compiled for decoding: norms and feed-forward blocks, which neither attend nor touch the cache."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.functional import onednn_products

__all__ = ["compiled_pieces"]

_log = logging.getLogger(__name__)
_failed: set[type[nn.Module]] = set()
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")


@contextmanager
def compiled_pieces(model: nn.Module) -> Iterator[nn.ModuleList]:
    """Within the context the pieces of decoder layers beside their attention run compiled when they get one token a row.

    A class of pieces is compiled once for all its layers, models and numbers of rows, whole or not at all: what torch cannot
    compile, or has no compiler for, is named once in the log and runs as it is. Prompts run as they are, too. On a CUDA device the
    kernels become part of the graph that :class:`~lightning_focal.generation.graphed.GraphedSteps` captures: its warm-up has
    compiled them by then.

    Args:
        model: any, in eval mode, without gradients. Whatever wraps a layer's ``forward`` already goes on by itself.

    Yields:
        The pieces.
    """
    pieces = _pieces(model)
    for piece in pieces:
        piece.forward = functools.partial(_run, piece)
    try:
        yield nn.ModuleList(pieces)
    finally:
        for piece in pieces:
            del piece.forward


def _pieces(model: nn.Module) -> list[nn.Module]:
    """What has weights and stands beside an attention."""
    found = []
    for layer in model.modules():
        children = dict(layer.named_children())
        if any(name in _ATTENTION for name in children):
            found += [
                child
                for name, child in children.items()
                if name not in _ATTENTION
                and "forward" not in child.__dict__
                and any(True for _ in child.parameters())
                and not isinstance(child, nn.ModuleList | nn.ModuleDict)
            ]
    return found


@functools.cache
def _compiled(kind: Any) -> Any:
    return torch.compile(kind.forward, fullgraph=True, dynamic=True)


def _run(piece: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    kind: Any = type(piece)
    with onednn_products(hidden):
        if kind not in _failed and hidden.ndim == 3 and hidden.shape[1] == 1:
            try:
                return _compiled(kind)(piece, hidden, *args, **kwargs)
            except Exception as error:  # whatever it is: if it is the piece's own, the plain way raises it again
                _failed.add(kind)
                reason = (str(error).strip().splitlines() or [""])[0]
                _log.warning("%s decodes without torch.compile: %s: %s", kind.__name__, type(error).__name__, reason)
        return kind.forward(piece, hidden, *args, **kwargs)
