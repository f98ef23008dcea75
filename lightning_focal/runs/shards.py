"""Folders of shards, as torch.distributed.checkpoint writes them: looked through before torch reads them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

__all__ = ["look_through"]

_PLAIN = {
    ("collections", "OrderedDict"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}
_METADATA = "torch.distributed.checkpoint.metadata"


class _Plain(pickle.Unpickler):
    """Reads the list of what a folder holds, and knows nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if (
            module == _METADATA
            and "." not in name
            and isinstance(getattr(__import__(_METADATA, fromlist=[name]), name, None), type)
        ):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"Unsupported GLOBAL {module}.{name}")


def look_through(folder: Path) -> None:
    """See that a folder of shards holds plain data alone: torch itself unpickles its list of contents, and every number in it, as they come.

    Args:
        folder: with ``.metadata``, ``meta.pt`` and the shards.

    Raises:
        pickle.UnpicklingError: for anything that would be run.
        OSError: where a shard is missing.
        ValueError: where one is shorter than the list says.
    """
    with open(folder / ".metadata", "rb") as file:
        held = _Plain(file).load()
    torch.load(folder / "meta.pt", map_location="cpu", weights_only=True)
    for index, place in held.storage_data.items():
        path = folder / place.relative_path
        if path.stat().st_size < place.offset + place.length:
            raise ValueError(f"{place.relative_path} is cut short")
        if type(held.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
            with open(path, "rb") as file:
                file.seek(place.offset)
                torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
