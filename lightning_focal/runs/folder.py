"""Which folder a run writes to."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RUN_FOLDER_ENV", "release", "run_folder"]

RUN_FOLDER_ENV = "LIGHTNING_FOCAL_RUN_FOLDER"
"""Set by the first process for the processes it launches, so that all write to one folder."""


def run_folder(wanted: str | Path, ckpt_path: str | None = None) -> Path:
    """Return the folder of a run: a resumed run goes on in its own, a new one never writes into another's.

    Args:
        wanted: folder asked for; when something is in it already, ``-2``, ``-3``, ... is put behind its name.
        ckpt_path: checkpoint to resume from; one under ``<folder>/checkpoints/`` means ``<folder>``, and ``last`` means ``wanted``
            where that holds checkpoints.

    >>> import tempfile; top = Path(tempfile.mkdtemp())
    >>> run_folder(top / "focal").name
    'focal'
    >>> run_folder(top / "focal").name
    'focal-2'
    >>> run_folder(top / "other", str(top / "focal" / "checkpoints" / "last.ckpt")).name
    'focal'
    """
    if ckpt_path is not None and Path(ckpt_path).parent.name == "checkpoints":
        return Path(ckpt_path).parent.parent
    wanted, number = Path(wanted), 1
    if ckpt_path == "last" and (wanted / "checkpoints").is_dir():
        return wanted
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if _claim(folder):
            return folder
        number += 1


def _claim(folder: Path) -> bool:
    """Make ``folder`` ours: it must be new, or empty and unclaimed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / ".run", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.close(descriptor)
    if len(os.listdir(folder)) > 1:
        (folder / ".run").unlink()
        return False
    return True


def release(folder: Path) -> None:
    """Remove a folder that a run claimed and wrote nothing of worth to: one that failed before it began.

    >>> import tempfile; top = Path(tempfile.mkdtemp())
    >>> release(run_folder(top / "focal")); run_folder(top / "focal").name
    'focal'
    """
    entries = list(folder.iterdir()) if folder.is_dir() else []
    if entries and all(_is_trifle(entry) for entry in entries):
        for entry in entries:
            entry.unlink()
        folder.rmdir()


def _is_trifle(entry: Path) -> bool:
    opened = entry.name.startswith("events.out.tfevents") and entry.stat().st_size < 200  # no value in it yet
    return opened or entry.name in (".run", "config.yaml")
