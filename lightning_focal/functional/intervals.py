"""How sure a mean is: over prompts by the bootstrap, over a few runs by Student's t."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["bootstrap_interval", "student_interval", "student_quantile"]


def _known(values: Tensor, level: float) -> Tensor:
    """Values in float64 without NaN, checked like the level."""
    if values.ndim != 1:
        raise ValueError(f"`values` must be [N], got {tuple(values.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    values = values.double().cpu()
    return values[~values.isnan()]


def bootstrap_interval(values: Tensor, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and percentile bootstrap interval over independent units, prompts say.

    Resamples whole units with replacement (Efron 1979). For a paired comparison hand in the differences.

    Args:
        values: ``[N]``, one number a unit; NaN entries are left out.
        level: coverage of the interval, in (0, 1).
        draws: number of resamples.
        seed: of the resampling: the same values give the same interval.

    Returns:
        ``(mean, low, high)``; all NaN when there is no value.

    Raises:
        ValueError: on a shape or level that does not fit.

    >>> mean, low, high = bootstrap_interval(torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    >>> round(mean, 2), round(low, 2), round(high, 2)
    (0.6, 0.2, 1.0)
    """
    values = _known(values, level)
    n = len(values)
    if n == 0:
        return (math.nan,) * 3
    generator = torch.Generator().manual_seed(seed)
    counts = [min(1000, draws - first) for first in range(0, draws, 1000)]  # bounded memory however many units
    means = torch.cat([values[torch.randint(n, (count, n), generator=generator)].mean(1) for count in counts])
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(values.mean()), low, high


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

    >>> [round(value, 3) for value in student_interval(torch.tensor([0.1, 0.2, 0.3]))]
    [0.2, -0.048, 0.448]
    """
    values = _known(values, level)
    n = len(values)
    if n == 0:
        return (math.nan,) * 3
    mean = float(values.mean())
    half = student_quantile(n - 1, level) * float(values.std()) / math.sqrt(n) if n > 1 else math.nan
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
