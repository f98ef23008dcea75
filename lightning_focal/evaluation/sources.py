"""What is evaluated after training: a Trainer's checkpoint, an exported folder, any other source of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_focal.models import has_adapters, is_sharded_checkpoint, load_policy
from lightning_focal.models.checkpoints import checkpoint_policy, read_run_config
from lightning_focal.models.weights import RolloutCopy

__all__ = ["is_checkpoint", "load_evaluated"]


def is_checkpoint(path: str | Path) -> bool:
    """Say whether a path is a Trainer's checkpoint, whole or in shards, rather than a policy."""
    return Path(path).is_file() or is_sharded_checkpoint(path)


def load_evaluated(
    path: str | Path, *, config: str | None = None, part: str = "policy", dtype: str | None = None
) -> tuple[Any, Any]:
    """Load what is to be evaluated, on the CPU; adapters are merged as an export merges them.

    Args:
        path: a checkpoint, an exported folder, or a source as in ``model.policy``.
        config: configuration of the run, for a checkpoint; that of its run folder by default.
        part: ``policy`` or ``teacher``, for a checkpoint.
        dtype: of the weights; as they are stored by default.

    Returns:
        A transformers model and its tokenizer.

    Raises:
        FileNotFoundError: for a checkpoint without its configuration.
        ValueError: for a checkpoint that does not fit it.
    """
    if not is_checkpoint(path):
        return load_policy(path, dtype=dtype or "auto")
    model, tokenizer = checkpoint_policy(path, read_run_config(path, config)["model"], part=part, dtype=dtype)
    return (RolloutCopy(model, None).model if has_adapters(model) else model), tokenizer
