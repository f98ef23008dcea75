"""How sure a mean over a few runs is."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["student_interval", "student_quantile"]


def student_interval(values: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval by Student's t over independent units, seeds say.

    ``mean ± t_{n-1} s / sqrt(n)`` with the unbiased standard deviation ``s`` (Student 1908). For few units, where a bootstrap is
    too narrow. For a paired comparison hand in the differences.

    Args:
        values: ``[N]``, one number a unit; NaN entries are left out.
        level: coverage of the interval, in (0, 1).

    Returns:
        ``(mean, low, high)``; low and high are NaN for a single value, all three where there is none.

    Raises:
        ValueError: on a shape or level that does not fit.

    >>> import torch
    >>> [round(value, 3) for value in student_interval(torch.tensor([0.1, 0.2, 0.3]))]
    [0.2, -0.048, 0.448]
    """
    if values.ndim != 1:
        raise ValueError(f"`values` must be [N], got {tuple(values.shape)}")
    values = values.double().cpu()
    values = values[~values.isnan()]
    n = len(values)
    quantile = student_quantile(n - 1, level) if n > 1 else math.nan
    if n == 0:
        return (math.nan,) * 3
    mean = float(values.mean())
    half = quantile * float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return mean, mean - half, mean + half


def student_quantile(freedom: int, level: float = 0.95) -> float:
    """Return ``t`` with ``P(|T| < t) = level`` for ``freedom`` degrees of freedom.

    The probability is a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4); it is inverted by
    bisection.

    Args:
        freedom: >= 1.
        level: in (0, 1).

    Raises:
        ValueError: on either out of range.

    >>> round(student_quantile(1), 3), round(student_quantile(4), 3)
    (12.706, 2.776)
    """
    if freedom < 1:
        raise ValueError(f"`freedom` must be >= 1, got {freedom}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(freedom))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _inside(angle: float, freedom: int) -> float:
    """``P(|T| < tan(angle) sqrt(freedom))``."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(freedom // 2):
        total += term
        term *= cosine * cosine * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
