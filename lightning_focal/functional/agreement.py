"""How far two raters agree beyond chance."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cohen_kappa", "confusion_matrix"]


def confusion_matrix(first: Tensor, second: Tensor, classes: int, mask: Tensor | None = None) -> Tensor:
    """Count how often each label of one rater meets each label of the other.

    Args:
        first: integer labels from 0 to ``classes - 1``, any shape.
        second: labels of the same items, of the same shape.
        classes: number of labels, >= 1.
        mask: True = counts; None = all do.

    Returns:
        ``[classes, classes]`` int64, rows are labels of ``first``.

    Raises:
        ValueError: on shapes that differ or labels out of range.

    >>> confusion_matrix(torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 0, 0]), 2)
    tensor([[2, 0],
            [1, 1]])
    """
    if first.shape != second.shape or (mask is not None and mask.shape != first.shape):
        raise ValueError(f"`first`, `second` and `mask` must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    chosen = torch.ones_like(first, dtype=torch.bool) if mask is None else mask
    rows, columns = first[chosen].long(), second[chosen].long()
    for name, labels in (("first", rows), ("second", columns)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"`{name}` must hold labels from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    return torch.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def cohen_kappa(confusion: Tensor) -> float:
    """Cohen's kappa, ``(p_o - p_e) / (1 - p_e)``: agreement beyond what the raters' own frequencies bring about (Cohen 1960).

    Args:
        confusion: ``[K, K]`` counts, see :func:`confusion_matrix`.

    Returns:
        At most 1; 0 = as chance would have it. NaN where chance alone explains all: no items, or both raters give one label to
        every item.

    Raises:
        ValueError: on anything but a square matrix.

    >>> cohen_kappa(torch.tensor([[20, 5], [10, 15]]))
    0.4
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"`confusion` must be [K, K], got {tuple(confusion.shape)}")
    counts = confusion.double()
    total = float(counts.sum())
    observed = float(counts.diagonal().sum()) * total
    expected = float(counts.sum(1) @ counts.sum(0))
    beyond = total * total - expected
    return (observed - expected) / beyond if beyond else float("nan")
