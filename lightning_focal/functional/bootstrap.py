"""How sure a mean over prompts is."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bootstrap_interval"]


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
    if values.ndim != 1:
        raise ValueError(f"`values` must be [N], got {tuple(values.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    values = values.double().cpu()
    values = values[~values.isnan()]
    n = len(values)
    if n == 0:
        return (float("nan"),) * 3
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(draws, dtype=torch.float64)
    for first in range(0, draws, 1000):  # bounded memory however many units
        count = min(1000, draws - first)
        means[first : first + count] = values[torch.randint(n, (count, n), generator=generator)].mean(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(values.mean()), low, high
