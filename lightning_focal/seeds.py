"""The seed of a run, where an argument does not name its own, and the seeds that follow from it."""

from __future__ import annotations

import hashlib
import os

__all__ = ["prompt_seed", "run_seed"]


def run_seed(seed: int | None) -> int:
    """Return ``seed``, or the one given to ``seed_everything`` (``--seed_everything``), or 0.

    >>> run_seed(7)
    7
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else int(seed)


def prompt_seed(seed: int, stage: str, epoch: int, name: str) -> int:
    """Return the seed of one prompt's rollouts (or of another named draw), in ``[0, 2 ** 63)``: a function of its arguments.

    >>> prompt_seed(0, "train", 0, "row-1") == prompt_seed(0, "train", 0, "row-1") != prompt_seed(0, "val", 0, "row-1")
    True
    """
    text = f"{seed}/{stage}/{epoch}/{name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
