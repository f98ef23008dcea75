"""Weights out of a Trainer's checkpoint, a file or a folder of shards, by one process and without running code from it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_focal.shard_index import INDEX, read_index

__all__ = ["check_shards", "is_sharded_checkpoint", "read_weights"]

_PREFIXES = ("state_dict.", "model.")
"""What weights are filed under in a folder of shards: by ``ModelParallelStrategy`` and by ``FSDPStrategy``."""


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Say whether a checkpoint is a folder of shards, written by several processes side by side."""
    return (Path(path) / INDEX).is_file()


def check_shards(path: str | Path) -> Any:
    """Read the index of a folder of shards without running code from it.

    Args:
        path: the folder.

    Returns:
        A ``torch.distributed.checkpoint.metadata.Metadata``.

    Raises:
        ValueError: for an index that is broken, or that names anything but tensors and where they lie.
    """
    try:
        return read_index(path)
    except OSError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"the index of the checkpoint {str(path)!r} is refused: {error}") from error


def read_weights(path: str | Path, prefix: str = "policy.") -> dict[str, Tensor]:
    """Read a model's weights from a checkpoint, on the CPU.

    Args:
        path: a file, or a folder of shards; read by this process alone, whatever number of processes wrote it.
        prefix: of the names wanted, ``policy.`` or ``teacher.model.``; it is taken off.

    Returns:
        Tensors by name; those of a file are mapped from the disk, not copied.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: for one that is broken, holds more than data, or has no such weights.
    """
    path = Path(path)
    if is_sharded_checkpoint(path):
        found = _read_shards(path, prefix)
    elif path.is_file():
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"the checkpoint {str(path)!r} is refused: {str(error).splitlines()[0]}") from error
        state = content.get("state_dict", {}) if isinstance(content, dict) else {}
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    else:
        what = "is a folder without shards" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"`ckpt_path` must be a checkpoint, a file or a folder of shards: {str(path)!r} {what}")
    if not found:
        raise ValueError(f"the checkpoint {str(path)!r} holds no weights named {prefix}*")
    return found


def _read_shards(path: Path, prefix: str) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            return check_shards(path)

    stored = check_shards(path).state_dict_metadata
    wanted: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata) and name.startswith(tuple(first + prefix for first in _PREFIXES))
    }
    if wanted:
        load(wanted, storage_reader=Reader(path))
    first = next((first for first in _PREFIXES if any(name.startswith(first + prefix) for name in wanted)), "")
    return {name.removeprefix(first + prefix): value for name, value in wanted.items()}
