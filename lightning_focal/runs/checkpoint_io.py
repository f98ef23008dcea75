"""Checkpoints that are never half written, and that run no code when they are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

__all__ = ["SAVING", "AtomicCheckpointIO"]

SAVING = ".saving-"
"""What the name of a checkpoint begins with until all processes have written theirs."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: whatever stood there before stays usable until the new file is whole.

    A disk that fills up in the middle leaves the old file alone and no half file behind. A checkpoint is read as plain data
    (``weights_only``): nothing in it is run, whatever it holds and wherever it comes from.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write, flush to the disk, rename, and flush the name, too.

        Raises:
            OSError: when the disk refuses; the message says that the previous checkpoint is untouched.
        """
        if storage_options is not None:
            raise TypeError("`storage_options` is not supported: checkpoints are written to a local folder")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        name = target.with_name(target.name.removeprefix(SAVING))  # what it is to be called
        try:
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
            _flush_folder(target.parent)
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
            reason = _disk_error(error)
            if reason is None:
                raise
            raise OSError(
                reason.errno, f"checkpoint {name} was not written ({reason.strerror}); the previous one is untouched"
            ) from error
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data.

        Args:
            path: file to read, or an address.
            map_location: as for ``torch.load``.
            weights_only: None means True here, also for an address.

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
    found = [line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    what = found[0].strip() if found else str(error).splitlines()[0]
    return (
        f"the checkpoint {path} holds more than plain data and was not read, as reading it would run code: {what} Nothing of it was "
        "run. If it is your own and holds a class of yours, make that known with torch.serialization.add_safe_globals"
    )


def _flush_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where the system lets a folder be flushed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the operating system's complaint behind an error, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
