"""Checkpoints that are never half written, and that run no code when they are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_focal.files import write_whole

__all__ = ["SAVING", "AtomicCheckpointIO", "unsafe"]

SAVING = ".saving-"
"""What the name of a checkpoint begins with until all processes have written theirs."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: whatever stood there before stays usable until the new file is whole.

    A checkpoint is read as plain data (``weights_only``): nothing in it is run, whatever it holds and wherever it comes from.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: when the disk refuses; the message says that the previous checkpoint is untouched.
            TypeError: for ``storage_options``.
        """
        if storage_options is not None:
            raise TypeError("`storage_options` is not supported: checkpoints are written to a local folder")
        target = Path(path)

        def write(beside: Path) -> None:
            with open(beside, "wb") as file:  # given a path, torch would write the name of the file into it
                torch.save(checkpoint, file)

        try:
            write_whole(target, write)
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, OSError):
                reason = reason.__cause__ or reason.__context__
            if reason is None:
                raise
            name = target.with_name(target.name.removeprefix(SAVING))
            raise OSError(
                reason.errno, f"checkpoint {name} was not written ({reason.strerror}); the previous one is untouched"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data.

        Raises:
            ValueError: when the file is broken, when it holds more than plain data, for a folder of shards, or for
                ``weights_only=False``.
        """
        if weights_only is False:
            raise ValueError(
                "`weights_only` must be true: a checkpoint is read as plain data, and nothing in it is run; a class of your own that "
                "a callback saves is made known with torch.serialization.add_safe_globals"
            )
        if os.path.isdir(path):
            raise ValueError(
                f"the checkpoint {path} is a folder of shards, which one process on its own does not read: use the strategy it was saved "
                f"with, or `lightning_focal export --ckpt_path {path} --out FOLDER` and --model.policy=FOLDER"
            )
        try:
            return super().load_checkpoint(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(unsafe(path, error)) from error
        except (RuntimeError, EOFError) as error:  # what torch's reader says of a file that is cut short
            raise ValueError(f"the checkpoint {path} is broken and cannot be read: {str(error).splitlines()[0]}") from error


def unsafe(path: str | os.PathLike[str], error: Exception) -> str:
    """Return what is said of a file that torch will not read as plain data."""
    lines = str(error).splitlines()
    what = next((line.strip() for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
    return (
        f"the checkpoint {path} holds more than plain data and was not read, as reading it would run code: {what} Nothing of it was "
        "run. If it is your own and holds a class of yours, make that known with torch.serialization.add_safe_globals"
    )
