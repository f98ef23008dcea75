"""Weights out of a Trainer's checkpoint, a file or a folder of shards, by one process and without running code from it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

__all__ = ["check_shards", "is_sharded_checkpoint", "read_weights"]

_INDEX = ".metadata"
_PREFIXES = ("state_dict.", "model.")
"""What weights are filed under in a folder of shards: by ``ModelParallelStrategy`` and by ``FSDPStrategy``."""

_PLAIN = {
    "torch.distributed.checkpoint.metadata": None,
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"},
    "pathlib._local": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"},
    "collections": {"OrderedDict"},
    "torch": {"Size", "device"},
}
"""What the index of a folder of shards is made of; None = any class of that module."""


class _Index(pickle.Unpickler):
    """Reads an index, which is a pickle, and nothing that could act."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that holds data, or refuse."""
        allowed = _PLAIN.get(module, set())
        if "." not in name and (allowed is None or name in allowed or (module == "torch" and _is_dtype(name))):
            found = super().find_class(module, name)
            if allowed is not None or (isinstance(found, type) and found.__module__ == module):
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no index of weights needs")


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), (torch.dtype, torch.layout, torch.memory_format))


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Say whether a checkpoint is a folder of shards, written by several processes side by side."""
    return (Path(path) / _INDEX).is_file()


def check_shards(path: str | Path) -> Any:
    """Read the index of a folder of shards without running code from it.

    Args:
        path: the folder.

    Returns:
        A ``torch.distributed.checkpoint.metadata.Metadata``.

    Raises:
        ValueError: for an index that is broken, or that names anything but tensors and where they lie.
    """
    with open(Path(path) / _INDEX, "rb") as file:
        return _read_index(file, path)


def _read_index(file: IO[bytes], path: str | Path) -> Any:
    try:
        return _Index(file).load()
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
