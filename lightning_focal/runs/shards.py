"""Folders of shards, as torch.distributed.checkpoint writes them: looked through before torch reads them."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from lightning_focal.shard_index import read_index

__all__ = ["look_through"]


def look_through(folder: Path) -> None:
    """See that a folder of shards holds plain data alone: torch itself unpickles its list of contents, and every number in it, as they come.

    Args:
        folder: with ``.metadata``, ``meta.pt`` and the shards.

    Raises:
        pickle.UnpicklingError: for anything that would be run.
        OSError: where a shard is missing.
        ValueError: where one is shorter than the list says.
    """
    held = read_index(folder)
    torch.load(folder / "meta.pt", map_location="cpu", weights_only=True)
    for index, place in held.storage_data.items():
        path = folder / place.relative_path
        if path.stat().st_size < place.offset + place.length:
            raise ValueError(f"{place.relative_path} is cut short")
        if type(held.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
            with open(path, "rb") as file:
                file.seek(place.offset)
                torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
