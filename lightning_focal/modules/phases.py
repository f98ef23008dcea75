"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["Phases"]


class Phases:
    """Seconds by phase of the current step. A phase within another counts for itself alone.

    >>> phases = Phases()
    >>> phases.start()
    >>> with phases("generate"):
    ...     pass
    >>> sorted(phases.seconds())
    ['generate', 'step']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inner = [0.0]  # time spent in phases within the one under way, outermost first
        self._began = time.perf_counter()

    def start(self) -> None:
        """Begin a step."""
        self._seconds = {}
        self._began = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent within to ``name``; waits for the device, once a phase."""
        began = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - began
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed - self._inner.pop()
            self._inner[-1] += elapsed

    def seconds(self) -> dict[str, float]:
        """Return seconds by phase, and of the whole step so far under ``step``."""
        return {**self._seconds, "step": time.perf_counter() - self._began}
