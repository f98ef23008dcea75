"""Which folder a run writes to, and who is at work in it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from lightning_focal.runs.processes import end_with_parent

__all__ = [
    "RUN_FOLDER_ENV",
    "folders_of",
    "in_use",
    "job",
    "job_folder",
    "let_go",
    "not_written",
    "own_rank",
    "release",
    "run_folder",
    "run_scope",
    "take",
]

RUN_FOLDER_ENV = "LIGHTNING_FOCAL_RUN_FOLDER"
"""Set by the first process for the processes it launches, so that all write to one folder."""

_MARK = ".run"
"""File in every run folder: it holds the job's name, and its lock is held by who is at work there."""
_TAKEN: dict[Path, int] = {}


def run_folder(wanted: str | Path) -> Path:
    """Make the folder of a new run, which never writes into another's.

    Raises:
        OSError: where no folder can be made, or nothing be written in it.

    >>> import tempfile; top = Path(tempfile.mkdtemp())
    >>> [run_folder(top / "focal").name for _ in range(2)]
    ['focal', 'focal-2']
    """
    folder = wanted = Path(wanted)
    number = 1
    try:
        while not _claim(folder):
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
    except OSError as error:
        raise OSError(_words(folder, error)) from error
    return folder


_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR}


def not_written(folder: Path, error: OSError) -> str | None:
    """Return in one line why a run folder cannot be written to, None where the error speaks of something else.

    >>> not_written(Path("runs/a"), OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.csv"))
    'the run folder runs/a cannot be written to: No space left on device (runs/a/metrics.csv); `run_dir` names another'
    >>> not_written(Path("runs/a"), OSError("no such model"))
    """
    named = [Path(os.fsdecode(name)).absolute() for name in (error.filename, error.filename2) if name is not None]
    here = not named or any(name.is_relative_to(folder.absolute()) for name in named)
    return _words(folder, error) if here and error.errno in _UNWRITABLE else None


def _words(folder: Path, error: OSError) -> str:
    what = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
    place = "" if error.filename is None or Path(os.fsdecode(error.filename)) == folder else f" ({os.fsdecode(error.filename)})"
    return f"the run folder {folder} cannot be written to: {what}{place}; `run_dir` names another"


def _claim(folder: Path) -> bool:
    """Make ``folder`` ours: it must be new, or empty and unclaimed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder / _MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, job().encode())
    except OSError:
        (folder / _MARK).unlink()
        raise
    finally:
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
    written: dict[Path, int] = {}
    for folder in wanted.parent.glob("*"):
        if name.fullmatch(folder.name) and ((folder / _MARK).exists() or (folder / "checkpoints").is_dir()):
            inside = [folder / entry for entry in (_MARK, "metrics.csv", "checkpoints", "rollouts")]
            written[folder] = max(path.stat().st_mtime_ns for path in inside if path.exists())
    return sorted(written, key=lambda folder: written[folder], reverse=True)


def own_rank() -> int:
    """Return the number of this process where a launcher of its own (torchrun, SLURM) has started it, else 0."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def job() -> str:
    """Return what a scheduler or launcher calls the job of this process, empty without one; the same after a restart."""
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


def take(folder: Path) -> None:
    """Hold a run folder for as long as this process lives; a kill gives it back.

    Raises:
        ValueError: where another process on this machine holds it.
    """
    if folder in _TAKEN:
        return
    with contextlib.suppress(OSError):  # a file system without locks
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _MARK, os.O_CREAT | os.O_RDWR, 0o666)
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
    if folder in _TAKEN:  # opening and closing the mark once more would give our lock back
        return False
    try:
        descriptor = os.open(folder / _MARK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Try to lock; True where it worked, and where there are no locks."""
    try:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a child that is forked does not inherit this kind
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        return True
    return True


def release(folder: Path) -> None:
    """Remove a folder that a run claimed and wrote nothing of worth to: one that failed before it began.

    >>> import tempfile; top = Path(tempfile.mkdtemp())
    >>> release(run_folder(top / "focal")); run_folder(top / "focal").name
    'focal'
    """
    entries = list(folder.iterdir()) if folder.is_dir() else []
    events = [
        path for path in entries if path.name.startswith("events.out.tfevents") and path.stat().st_size < 200
    ]  # no value yet
    if entries and all(entry in events or entry.name in (_MARK, "config.yaml") for entry in entries):
        for entry in entries:
            entry.unlink()
        folder.rmdir()


@contextlib.contextmanager
def run_scope() -> Iterator[None]:
    """Hold the folder that a run claims for as long as it goes on; what failed before it began leaves no folder.

    Raises:
        OSError: in one line, where the folder cannot be written to.
    """
    launched = RUN_FOLDER_ENV in os.environ  # by a first process, whose folder it is
    if launched and os.environ.get("LOCAL_RANK", "0") != "0":
        end_with_parent()
    try:
        yield
    except BaseException as error:
        if RUN_FOLDER_ENV in os.environ:
            folder = Path(os.environ[RUN_FOLDER_ENV])
            words = not_written(folder, error) if isinstance(error, OSError) else None
            if not launched and not own_rank():
                release(folder)
            if words is not None:
                raise OSError(words) from error
        raise
    finally:
        if not launched:
            os.environ.pop(RUN_FOLDER_ENV, None)
            let_go()
