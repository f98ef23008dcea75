"""Work that must grow in line with its input, on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable


def is_linear(work: Callable[[int], object], size: int) -> bool:
    """Whether ``work(size)`` takes less than ten times the processor time of ``work(size // 4)``: linear time takes four, quadratic sixteen.

    Work that ends within a tenth of a second is too short to tell, and passes. One of three tries is enough, since other processes disturb.
    """

    def seconds(n: int) -> float:
        began = time.process_time()
        work(n)
        return time.process_time() - began

    work(size // 100)  # what is loaded and compiled on first use
    return any((whole := seconds(size)) < 0.1 or whole < 10 * seconds(size // 4) for _ in range(3))
