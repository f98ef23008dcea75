"""Weights of a frozen model that are in memory only while they are used."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_focal.models.weights import is_sharded

__all__ = ["MappedWeights"]

_ALIGNED = 64
"""Bytes; every weight begins at a multiple."""


class MappedWeights:
    """Moves the parameters of ``model`` into a file without a name that is mapped into memory.

    Where they are not lent they take up neither this process's memory nor a device's. The file lies in the folder for temporary
    files (``TMPDIR``), is as large as the weights, and is gone with the process, however that ends. The operating system may keep
    what it read of it for as long as nobody else needs the memory.

    Args:
        model: on the CPU, whole; nobody writes to its parameters from now on. Tied ones stay tied; buffers stay where they are.

    Raises:
        ValueError: for a model without parameters, or with some that are split over processes or hold no values.
        OSError: where there is too little room for the file, before it is begun.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> before = layer.weight.clone()
    >>> mapped = MappedWeights(layer)
    >>> with mapped.lent("cpu"):
    ...     bool((layer.weight == before).all())
    True
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(model.parameters())
        if not parameters or is_sharded(model) or any(p.is_meta for p in parameters):
            raise ValueError("`model` must have parameters, each of them whole and with its values")
        _expect_room(sum(p.numel() * p.element_size() + _ALIGNED for p in parameters))
        self._buffers, places = list(model.buffers()), []
        with tempfile.TemporaryFile(prefix="lightning_focal_weights_") as file:
            for parameter in parameters:
                file.write(b"\0" * (-file.tell() % _ALIGNED))
                places.append(file.tell())
                file.write(_bytes_of(parameter))
            file.flush()
            self._file = mmap.mmap(file.fileno(), file.tell(), access=mmap.ACCESS_COPY)
        self._stored = [(p, _read(self._file, place, p)) for place, p in zip(places, parameters, strict=True)]
        self._put_back()

    @contextmanager
    def lent(self, device: torch.device | str) -> Iterator[None]:
        """Within the context the model's weights are on ``device``; its buffers stay there."""
        for buffer in self._buffers:
            buffer.data = buffer.data.to(device)
        for parameter, stored in self._stored:
            parameter.data = stored.to(device)
        try:
            yield
        finally:
            self._put_back()

    def _put_back(self) -> None:
        for parameter, stored in self._stored:
            parameter.data = stored
        if hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)  # nothing was written: the next read finds the file's bytes


def _expect_room(size: int) -> None:
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < size:
        raise OSError(
            f"a file of {size:,} bytes for weights needs a place: {folder} has {free:,} free; name another folder in TMPDIR"
        )


def _bytes_of(parameter: Tensor) -> memoryview:
    flat: Any = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def _read(file: mmap.mmap, place: int, like: Tensor) -> Tensor:
    return torch.frombuffer(file, dtype=like.dtype, count=like.numel(), offset=place).view(like.shape)
