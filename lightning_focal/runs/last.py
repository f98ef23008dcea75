"""Which checkpoint a run goes on from: the newest that is whole."""

from __future__ import annotations

import logging
import os
import pickle
import re
import zipfile
from pathlib import Path

import torch

from lightning_focal.runs.checkpoint_io import unsafe
from lightning_focal.runs.shards import look_through

__all__ = ["LAST", "last_checkpoint", "remove_leftovers", "why_broken"]

_log = logging.getLogger(__name__)

LAST = "last.ckpt"
"""Link to the newest checkpoint of a run."""

_LEFTOVER = re.compile(r"\..+\.\d+(\.\w+)?|\.saving-.+")  # what files of this package are called until they are whole


def why_broken(path: Path) -> str | None:
    """Return why training cannot go on from a checkpoint, in words, or None: sizes, checksums and contents are looked at.

    A flipped bit is found, too: torch writes a checksum of every tensor, but does not look at it when it reads.

    Raises:
        ValueError: for a file that would run code when it is read.

    >>> import tempfile; path = Path(tempfile.mkdtemp()) / "step=4.ckpt"
    >>> _ = path.write_bytes(b""); why_broken(path)
    'it is empty'
    """
    if path.is_dir():
        return _why_broken_shards(path)
    if not path.is_file():
        return "it leads nowhere" if path.is_symlink() else "it is gone"
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"it is cut short ({error})"
    if damaged is not None:
        return f"the checksum of {damaged} in it does not match"
    try:
        held = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(unsafe(path, error)) from error
    except (RuntimeError, EOFError, KeyError) as error:
        return f"it cannot be read ({str(error).splitlines()[0]})"
    if not isinstance(held, dict) or "optimizer_states" not in held:
        return "it holds weights alone, without the state of a run"
    return None


def _why_broken_shards(path: Path) -> str | None:
    missing = [name for name in (".metadata", "meta.pt") if not (path / name).is_file()]  # written last
    if missing:
        return f"its {missing[0]} is missing"
    try:
        look_through(path)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise ValueError(unsafe(path, error)) from error
        return f"its list of contents cannot be read ({error})"
    except (OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        return f"it is damaged ({str(error).splitlines()[0]})"
    return None


def last_checkpoint(folder: Path, quiet: bool = False) -> Path | None:
    """Return the newest whole checkpoint of a run, or None.

    ``checkpoints/last.ckpt`` comes first; where it is missing or broken, the others by age. What is passed over is named once.

    Args:
        folder: the run folder.
        quiet: say nothing.

    Raises:
        ValueError: for a file that would run code when it is read.
    """
    top = folder / "checkpoints"
    last, found = top / LAST, [*top.glob("*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")]  # the latter: SLURM's, by Lightning
    others = [path for path in found if path.name != LAST and os.path.exists(path)]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, _number(path)), reverse=True)
    newer = [path for path in others if path.name.startswith("hpc_ckpt_") and _newer(path, last)]
    tried: list[Path] = []
    for path in [*newer, *([last] if os.path.lexists(last) else []), *others]:
        real = path.resolve()
        if real in tried:
            continue
        tried.append(real)
        broken = why_broken(path)
        if broken is None:
            return real if real.parent in (top.resolve(), folder.resolve()) else path
        if not quiet:
            name = path.name if real.name == path.name or not real.exists() else f"{path.name} ({real.name})"
            _log.warning("checkpoint %s in %s is passed over: %s", name, path.parent, broken)
    return None


def _newer(path: Path, other: Path) -> bool:
    return not other.exists() or path.stat().st_mtime_ns > other.stat().st_mtime_ns


def _number(path: Path) -> int:
    """Return the step in a file's name, -1 without one."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else -1


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing: files that did not get their name yet."""
    for place in (folder, folder / "checkpoints", folder / "rollouts"):
        for path in place.glob(".*") if place.is_dir() else ():
            if _LEFTOVER.fullmatch(path.name):
                remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder of shards, if it is there."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.rglob("*"), reverse=True):
            entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
