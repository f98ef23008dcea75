"""The seed of a run, where an argument does not name its own."""

from __future__ import annotations

import os

__all__ = ["run_seed"]


def run_seed(seed: int | None) -> int:
    """Return ``seed``, or the one given to ``seed_everything`` (``--seed_everything``), or 0.

    >>> run_seed(7)
    7
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else int(seed)
