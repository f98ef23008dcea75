"""What ``--ckpt_path`` means: which run goes on, and from which checkpoint."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from lightning_focal.runs.folder import RUN_FOLDER_ENV, folders_of, in_use, job_folder, own_rank
from lightning_focal.runs.last import LAST, last_checkpoint, why_broken

__all__ = ["Resume", "resume_from"]

_log = logging.getLogger(__name__)


class Resume(NamedTuple):
    """Where a run goes on.

    Args:
        folder: the run folder to go on in; None = a new one.
        path: the checkpoint; None = from the beginning.
    """

    folder: Path | None
    path: str | None


def resume_from(ckpt_path: str | None, run_dir: str | Path, fit: bool = True, folder: Path | None = None) -> Resume:
    """Return which run goes on and from which checkpoint.

    ``last`` is the newest whole checkpoint of the run that was written to last among ``run_dir``, ``run_dir-2``, ..., so the same
    command with ``--ckpt_path=last`` goes on after a kill. Where that run has no checkpoint yet, training starts from the
    beginning in its folder; where there is no run, in a new one. ``FOLDER/checkpoints/last.ckpt`` means the newest whole one in
    that folder. A job that SLURM or torchrun has started again goes on by itself.

    Args:
        ckpt_path: as on the command line.
        run_dir: folder asked for.
        fit: training goes on; otherwise weights are wanted, and there have to be some.
        folder: the run folder, where it is known already: to a process that another one has launched.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if it is broken and no other may take its place, or would run code when it is read.
    """
    quiet = RUN_FOLDER_ENV in os.environ or own_rank() > 0  # the first process speaks
    if ckpt_path is None:
        again = job_folder(Path(run_dir)) if fit else None
        return Resume(None, None) if again is None else _newest(again, quiet, "this job was started again")
    if ckpt_path == "last":
        runs = [folder] if folder is not None else [run for run in folders_of(Path(run_dir)) if own_rank() or not in_use(run)]
        if runs and (fit or last_checkpoint(runs[0], quiet=True)):
            return _newest(runs[0], quiet, "--ckpt_path=last")
        if fit:
            if not quiet:
                _log.warning("--ckpt_path=last: there is no run in %s yet, training starts from the beginning", run_dir)
            return Resume(None, None)
        raise FileNotFoundError(f"`ckpt_path` is last, but there is no whole checkpoint in {Path(run_dir) / 'checkpoints'}")
    path = Path(ckpt_path)
    if "://" in ckpt_path or ckpt_path in ("best", "hpc"):
        return Resume(None, ckpt_path)
    if path.name == LAST and path.parent.name == "checkpoints" and path.parent.is_dir():
        found = last_checkpoint(path.parent.parent, quiet)
        if found is not None:
            if found.name != path.resolve().name and not quiet:
                _log.warning("%s is used in its place", found)
            return Resume(path.parent.parent, str(path.parent / found.name))
    return Resume(None, str(_expected(path, fit)))


def _newest(folder: Path, quiet: bool, why: str) -> Resume:
    found = last_checkpoint(folder, quiet)
    if found is None:
        if not quiet:
            _log.warning("%s: the run in %s has no checkpoint yet, it starts from the beginning", why, folder)
        return Resume(folder, None)
    if not quiet:
        _log.warning("%s: the run in %s goes on from %s", why, folder, found.name)
    where = folder / "checkpoints" if found.parent.name == "checkpoints" else folder
    return Resume(folder, str(where / found.name))


def _expected(path: Path, fit: bool) -> Path:
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"`ckpt_path` must be an existing checkpoint such as runs/focal/checkpoints/last.ckpt, got {str(path)!r} (looked in {Path.cwd()})"
        )
    broken = why_broken(path)
    if broken is not None and (fit or "weights alone" not in broken):
        other = last_checkpoint(path.parent.parent, quiet=True) if path.parent.name == "checkpoints" else None
        hint = f"; whole is {path.parent / other.name}" if other is not None else ""
        raise ValueError(f"the checkpoint {path} is broken and cannot be read: {broken}{hint}")
    return path
