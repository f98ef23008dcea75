"""Which folder a run writes to, and who is at work in it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["RUN_FOLDER_ENV", "folders_of", "in_use", "job", "job_folder", "let_go", "own_rank", "release", "run_folder", "take"]

RUN_FOLDER_ENV = "LIGHTNING_FOCAL_RUN_FOLDER"
"""Set by the first process for the processes it launches, so that all write to one folder."""

_MARK = ".run"
_TAKEN: dict[Path, int] = {}


def run_folder(wanted: str | Path, ckpt_path: str | None = None) -> Path:
    """Return the folder of a run: a resumed run goes on in its own, a new one never writes into another's.

    Args:
        wanted: folder asked for; when something is in it already, ``-2``, ``-3``, ... is put behind its name.
        ckpt_path: checkpoint to resume from; one under ``<folder>/checkpoints/`` means ``<folder>``.

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
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if _claim(folder):
            return folder
        number += 1


def _claim(folder: Path) -> bool:
    """Make ``folder`` ours: it must be new, or empty and unclaimed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / _MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(descriptor, job().encode())
    os.close(descriptor)
    if len(os.listdir(folder)) > 1:
        (folder / _MARK).unlink()
        return False
    return True


def folders_of(wanted: Path) -> list[Path]:
    """Return the folders of runs that asked for ``wanted``, the one written to last first.

    >>> import tempfile; top = Path(tempfile.mkdtemp())
    >>> _ = [run_folder(top / name) for name in ("focal", "focal", "focal-point")]
    >>> sorted(folder.name for folder in folders_of(top / "focal"))
    ['focal', 'focal-2']
    """
    name = re.compile(re.escape(wanted.name) + r"(-\d+)?")
    found = [path for path in wanted.parent.glob(f"{wanted.name}*") if name.fullmatch(path.name) and path.is_dir()]
    found = [path for path in found if (path / _MARK).exists() or (path / "checkpoints").is_dir()]
    return sorted(found, key=_written, reverse=True)


def _written(folder: Path) -> int:
    inside = (folder / _MARK, folder / "metrics.csv", folder / "checkpoints", folder / "rollouts")
    return max(path.stat().st_mtime_ns for path in inside if path.exists())


def own_rank() -> int:
    """Return the number of this process where a launcher of its own (torchrun, SLURM) has started it, else 0."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def job() -> str:
    """Return what a scheduler or launcher calls the job this process belongs to, empty without one; the same after a restart."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun {os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()}"
    if "SLURM_JOB_ID" in os.environ:
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"slurm {os.environ.get('SLURM_ARRAY_JOB_ID', os.environ['SLURM_JOB_ID'])}" + (f"_{task}" if task else "")
    return ""


def job_folder(wanted: Path) -> Path | None:
    """Return the folder in which this job was at work before it was started again, if it was."""
    again = [int(os.environ.get(name, "0") or 0) for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    if not any(again) or not job():
        return None
    marked = [folder for folder in folders_of(wanted) if (folder / _MARK).is_file()]
    return next((folder for folder in marked if (folder / _MARK).read_text() == job()), None)


# -- who is at work ---------------------------------------------------------------------------------------------------------


def take(folder: Path) -> None:
    """Hold a run folder for as long as this process lives; a kill gives it back.

    Raises:
        ValueError: where another process on this machine holds it.
    """
    if folder in _TAKEN:
        return
    with contextlib.suppress(OSError):  # no locks on this file system
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _MARK, os.O_CREAT | os.O_RDWR)
        if not _lock(descriptor):
            os.close(descriptor)
            raise ValueError(
                f"the run in {folder} is still going on: another process writes there; end it first, or name the checkpoint of another "
                "run with --ckpt_path"
            )
        if job():
            os.ftruncate(descriptor, 0)
            os.write(descriptor, job().encode())
        _TAKEN[folder] = descriptor


def let_go() -> None:
    """Give back every folder this process holds."""
    while _TAKEN:
        os.close(_TAKEN.popitem()[1])


def in_use(folder: Path) -> bool:
    """Whether another process on this machine is at work in a run folder."""
    if folder in _TAKEN or not (folder / _MARK).exists():
        return False
    with _opened(folder / _MARK) as descriptor:
        return descriptor is not None and not _lock(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Try to lock; True where it worked, and where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a child that is forked does not inherit this kind
    except BlockingIOError:
        return False
    except OSError:
        return True
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
    return opened or entry.name in (_MARK, "config.yaml")
