"""How fast requests follow each other."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Pace"]


class Pace:
    """Lets requests start at even distances, so that no minute holds more than the limit.

    Args:
        per_minute: requests a minute, of this process; None = no limit.

    Raises:
        ValueError: unless ``per_minute`` is positive.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        if per_minute is not None and not 0 < per_minute < float("inf"):
            raise ValueError(f"`requests_per_minute` must be > 0, or null for no limit, got {per_minute}")
        self.distance_s = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until the next request may start."""
        if not self.distance_s:
            return
        start = max(time.monotonic(), self._next)
        self._next = start + self.distance_s
        await asyncio.sleep(start - time.monotonic())
