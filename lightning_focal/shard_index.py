"""The index of a folder of shards, as torch.distributed.checkpoint writes it: a pickle, read without running anything of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

__all__ = ["INDEX", "read_index"]

INDEX = ".metadata"
"""What the index is called in its folder."""

_PATHS = {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"}
_PLAIN = {
    "torch.distributed.checkpoint.metadata": None,
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.serialization": {"_get_layout"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "collections": {"OrderedDict"},
    "torch": {"Size", "device"},
}
"""What an index is made of, by module; None = any class that the module defines."""


class _Index(pickle.Unpickler):
    """Reads an index, and nothing that could act."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that holds data, or refuse."""
        allowed = _PLAIN.get(module, set())
        is_type = isinstance(getattr(torch, name, None), (torch.dtype, torch.layout, torch.memory_format))
        if "." not in name and (allowed is None or name in allowed or (module == "torch" and is_type)):
            found = super().find_class(module, name)
            if allowed is not None or (isinstance(found, type) and found.__module__ == module):
                return found
        raise pickle.UnpicklingError(f"Unsupported GLOBAL {module}.{name}, which no index of weights needs")


def read_index(folder: str | Path) -> Any:
    """Read what a folder of shards holds, and where.

    Returns:
        A ``torch.distributed.checkpoint.metadata.Metadata``.

    Raises:
        pickle.UnpicklingError: for an index that names anything but tensors and where they lie; it says ``GLOBAL`` then.
        OSError: where there is none.
        Exception: for one that is broken, whatever a broken pickle makes of itself.
    """
    with open(Path(folder) / INDEX, "rb") as file:
        return _Index(file).load()
