"""How sure a mean is: over prompts by the bootstrap, over a few runs by Student's t."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap_interval", "draws_of_units", "paired_interval", "parted", "student_interval", "student_quantile"]


def _known(values: ArrayLike, level: float) -> NDArray[np.float64]:
    """Values in float64 without NaN, checked like the level."""
    known = np.asarray(values.double().cpu() if hasattr(values, "double") else values, dtype=np.float64)
    if known.ndim != 1:
        raise ValueError(f"`values` must be [N], got {known.shape}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    return known[~np.isnan(known)]


def draws_of_units(n: int, draws: int, generator: np.random.RandomState) -> NDArray[np.int64]:
    """Draw units with replacement: ``[draws, n]`` numbers in ``[0, n)``, the ones that torch draws from the same seed.

    >>> import torch
    >>> torch.equal(
    ...     torch.randint(9, (4, 9), generator=torch.Generator().manual_seed(5)),
    ...     torch.from_numpy(draws_of_units(9, 4, np.random.RandomState(5))),
    ... )
    True
    """
    return generator.randint(0, 2**32, (draws, n), dtype=np.uint32).astype(np.int64) % n


def bootstrap_interval(values: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and percentile bootstrap interval over independent units, prompts say.

    Resamples whole units with replacement (Efron 1979). For a paired comparison hand in the differences.

    Args:
        values: ``[N]``, one number a unit, a tensor or a list; NaN entries are left out.
        level: coverage of the interval, in (0, 1).
        draws: number of resamples.
        seed: of the resampling: the same values give the same interval.

    Returns:
        ``(mean, low, high)``; all NaN when there is no value.

    Raises:
        ValueError: on a shape or level that does not fit.

    >>> mean, low, high = bootstrap_interval([0.0, 1.0, 1.0, 0.0, 1.0])
    >>> round(mean, 2), round(low, 2), round(high, 2)
    (0.6, 0.2, 1.0)
    """
    known = _known(values, level)
    if not len(known):
        return (math.nan,) * 3
    generator = np.random.RandomState(seed)
    counts = [min(1000, draws - first) for first in range(0, draws, 1000)]  # bounded memory however many units
    means = np.concatenate([known[draws_of_units(len(known), count, generator)].mean(1) for count in counts])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(known.mean()), float(low), float(high)


def paired_interval(before: Mapping[str, Any], after: Mapping[str, Any], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of ``after - before`` over the prompts that both have, with its bootstrap interval; None and NaN are left out.

    >>> paired_interval({"a": 0.0, "b": 0.5, "c": None}, {"a": 0.25, "b": 0.75, "c": 1.0})
    (0.25, 0.25, 0.25)
    """
    both = [(before[key], after[key]) for key in before if after.get(key) is not None and before[key] is not None]
    return bootstrap_interval([last - first for first, last in both], level)


def parted(evaluations: Sequence[Mapping[str, Any]], level: float = 0.95) -> str | None:
    """Say since when two judges have parted: one score has risen, the other has fallen, and neither interval includes 0.

    Args:
        evaluations: of the same held-out prompts, in order: ``batch``, and by prompt id ``scores`` and, by the other judge,
            ``held_out_judge``. Under ten prompts of the other judge nothing is said.
        level: coverage of the intervals, in (0, 1).

    Returns:
        A sentence on the latest evaluation; None where the judges agree.

    >>> prompts = [str(i) for i in range(10)]
    >>> scores = [{"scores": dict.fromkeys(prompts, 0.5), "held_out_judge": dict.fromkeys(prompts, 0.5), "batch": 0}]
    >>> scores += [{"scores": dict.fromkeys(prompts, 0.75), "held_out_judge": dict.fromkeys(prompts, 0.25), "batch": 9}]
    >>> parted(scores)[:48], parted(scores[:1])
    ('the judges part: from batch 0 to 9 the held-out ', None)
    """
    *earlier, last = evaluations or [{}]
    for entry in earlier if len(last.get("held_out_judge", ())) >= 10 else ():
        rise = paired_interval(entry["scores"], last["scores"], level)
        fall = paired_interval(entry.get("held_out_judge", {}), last["held_out_judge"], level)
        if rise[1] > 0 and fall[2] < 0:
            first, second = (f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in (rise, fall))
            return (
                f"the judges part: from batch {entry['batch']} to {last['batch']} the held-out score changed by {first} by the "
                f"training judge and by {second} by `reward.held_out_judge`; the policy learns to please its judge"
            )
    return None


def student_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval by Student's t over independent units, seeds say.

    ``mean ± t_{n-1} s / sqrt(n)`` with the unbiased standard deviation ``s`` (Student 1908). For few units, where a bootstrap is
    too narrow. For a paired comparison hand in the differences.

    Args:
        values: ``[N]``, one number a unit, a tensor or a list; NaN entries are left out.
        level: coverage of the interval, in (0, 1).

    Returns:
        ``(mean, low, high)``; low and high are NaN for a single value, all three where there is none.

    Raises:
        ValueError: on a shape or level that does not fit.

    >>> [round(value, 3) for value in student_interval([0.1, 0.2, 0.3])]
    [0.2, -0.048, 0.448]
    """
    known = _known(values, level)
    n = len(known)
    if n == 0:
        return (math.nan,) * 3
    mean = float(known.mean())
    half = student_quantile(n - 1, level) * float(known.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
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
