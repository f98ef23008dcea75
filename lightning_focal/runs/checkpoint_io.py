"""Checkpoints that are never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: whatever stood there before stays usable until the new file is whole.

    A disk that fills up in the middle leaves the old file alone and no half file behind.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write, flush to the disk, rename.

        Raises:
            OSError: when the disk refuses; the message says that the previous checkpoint is untouched.
        """
        if storage_options is not None:
            raise TypeError("`storage_options` is not supported: checkpoints are written to a local folder")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
            reason = _disk_error(error)
            if reason is None:
                raise
            raise OSError(
                reason.errno, f"checkpoint {target} was not written ({reason.strerror}); the previous one is untouched"
            ) from error
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ValueError: when the file is broken; the message names it.
        """
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except (RuntimeError, EOFError) as error:  # what torch's reader says of a file that is cut short
            raise ValueError(f"the checkpoint {path} is broken and cannot be read: {str(error).splitlines()[0]}") from error


def _disk_error(error: BaseException | None) -> OSError | None:
    """Return the operating system's complaint behind an error, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
