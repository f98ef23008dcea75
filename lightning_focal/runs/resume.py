"""What ``--ckpt_path`` means: which run goes on, and from which checkpoint, the newest that is whole."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_focal.runs.checkpoint_io import unsafe
from lightning_focal.runs.folder import RUN_FOLDER_ENV, folders_of, in_use, job_folder, own_rank
from lightning_focal.shard_index import INDEX, read_index

__all__ = ["LAST", "Resume", "last_checkpoint", "remove", "remove_leftovers", "resume_from", "why_broken"]

_log = logging.getLogger(__name__)

LAST = "last.ckpt"
"""Link to the newest checkpoint of a run."""

_LEFTOVER = re.compile(r"\..+\.\d+(\.\w+)?|\.saving-.+")  # what files of this package are called until they are whole


class Resume(NamedTuple):
    """Where a run goes on."""

    folder: Path | None
    path: str | None


def resume_from(
    ckpt_path: str | None,
    run_dir: str | Path,
    fit: bool = True,
    folder: Path | None = None,
    *,
    named: bool = False,
    command: str = "the same command with",
) -> Resume:
    """Return which run goes on and from which checkpoint.

    A run goes on in its folder from its newest checkpoint alone: from an older one it would write over what came after. So from any
    checkpoint a run can branch off into a folder of its own, and the other is left as it is.

    ``last`` is the newest whole checkpoint of the run that was written to last among ``run_dir``, ``run_dir-2``, ..., so the same
    command with ``--ckpt_path=last`` goes on after a kill. Where that run has no checkpoint yet, training starts from the
    beginning in its folder; where there is no run, in a new one. ``FOLDER/checkpoints/last.ckpt`` means the newest whole one in
    that folder. A job that SLURM or torchrun has started again goes on by itself.

    Args:
        ckpt_path: as on the command line.
        run_dir: folder asked for.
        fit: training goes on; otherwise weights are wanted, and there have to be some.
        folder: the run folder, where it is known already: to a process that another one has launched.
        named: the folder was asked for by name: where the checkpoint is not of that run, a new one begins there.
        command: what is typed in front of ``--run_dir=FOLDER`` to branch off, for the message.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if it is broken and no other may take its place, would run code when it is read, or is older than the newest of the
            run that it would go on in.
    """
    quiet = RUN_FOLDER_ENV in os.environ or own_rank() > 0  # the first process speaks

    def say(words: str, *values: object) -> None:
        if not quiet:
            _log.warning(words, *values)

    def newest(folder: Path, why: str) -> Resume:
        found = last_checkpoint(folder, quiet)
        if found is None:
            origin = _began_from(folder)
            say("%s: the run in %s has no checkpoint yet, it starts from %s", why, folder, origin or "the beginning")
            return Resume(folder, origin)
        say("%s: the run in %s goes on from %s", why, folder, found.name)
        return Resume(folder, str((folder / "checkpoints" if found.parent.name == "checkpoints" else folder) / found.name))

    if ckpt_path is None:
        again = job_folder(Path(run_dir)) if fit else None
        return Resume(None, None) if again is None else newest(again, "this job was started again")
    if ckpt_path == "last":
        runs = [folder] if folder is not None else [run for run in folders_of(Path(run_dir)) if own_rank() or not in_use(run)]
        if runs and (fit or last_checkpoint(runs[0], quiet=True)):
            return newest(runs[0], "--ckpt_path=last")
        if fit:
            say("--ckpt_path=last: there is no run in %s yet, training starts from the beginning", run_dir)
            return Resume(None, None)
        raise FileNotFoundError(f"`ckpt_path` is last, but there is no whole checkpoint in {Path(run_dir) / 'checkpoints'}")
    if "://" in ckpt_path or ckpt_path in ("best", "hpc"):
        return Resume(None, ckpt_path)
    path = Path(ckpt_path)
    home = path.parent.parent if path.parent.name == "checkpoints" else None
    goes_on = None if fit and named and home is not None and not _is_of(home, Path(run_dir)) else home
    if fit and (again := job_folder(Path(run_dir) if goes_on is None else goes_on)) is not None:
        if last_checkpoint(again, quiet=True) is not None:
            return newest(again, "this job was started again")
        goes_on = again
    if home is not None and path.name == LAST and path.parent.is_dir():
        found = last_checkpoint(home, quiet)
        if found is not None:
            if found.name != path.resolve().name:
                say("%s is used in its place", found)
            return Resume(goes_on, str(path.parent / found.name))
    if not ckpt_path or not os.path.lexists(path):
        raise FileNotFoundError(
            f"`ckpt_path` must be an existing checkpoint such as runs/focal/checkpoints/last.ckpt, got {ckpt_path!r} (looked in {Path.cwd()})"
        )
    # the first process decides for all: another one that looks elsewhere is met in RunCheckpoint.setup, where they talk
    other = last_checkpoint(home, quiet=True) if home is not None and fit and not quiet else None
    broken = why_broken(path) if other is None or not other.samefile(path) else None
    if broken is not None and (fit or "weights alone" not in broken):
        other = last_checkpoint(home, quiet=True) if home is not None else None
        hint = f"; whole is {path.parent / other.name}" if other is not None else ""
        raise ValueError(f"the checkpoint {path} is broken and cannot be read: {broken}{hint}")
    if other is not None and goes_on == home and _batches(path) < _batches(other):
        branch = shlex.quote(f"--run_dir={home}_from_{path.stem}")
        raise ValueError(
            f"`ckpt_path` {path} is older than {other.name} of the same run, and going on from it in {home} would write over what came "
            f"after: give the branch a `run_dir` of its own, {command} {branch}"
        )
    return Resume(goes_on, ckpt_path)


def _is_of(home: Path, run_dir: Path) -> bool:
    """Whether a run is the one that a folder's name asks for."""
    return home.resolve() in (folder.resolve() for folder in (run_dir, *folders_of(run_dir)))


def _began_from(folder: Path) -> str | None:
    """Return the checkpoint of another run that a run began from, where it is still there."""
    try:
        origin = json.loads((folder / "run.json").read_text(encoding="utf-8"))["starts"][-1]["from"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return origin if isinstance(origin, str) and os.path.exists(origin) else None


def _batches(path: Path) -> int:
    """Return the number of batches behind a whole checkpoint."""
    held = torch.load(path / "meta.pt" if path.is_dir() else path, mmap=not path.is_dir(), map_location="cpu", weights_only=True)
    try:
        return int(held["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])
    except (LookupError, TypeError):
        return int(held.get("global_step", -1))


def last_checkpoint(folder: Path, quiet: bool = False) -> Path | None:
    """Return the newest whole checkpoint of a run, or None.

    ``checkpoints/last.ckpt`` comes first; where it is missing or broken, the others by age. What is passed over is named once.

    Raises:
        ValueError: for a file that would run code when it is read.
    """
    top, last = folder / "checkpoints", folder / "checkpoints" / LAST

    def age(path: Path) -> tuple[int, int]:
        steps = re.findall(r"\d+", path.stem)
        return path.stat().st_mtime_ns, int(steps[-1]) if steps else -1

    found = [*top.glob("[!.]*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")]  # the latter: SLURM's, by Lightning
    others = sorted([path for path in found if path != last and path.exists()], key=age, reverse=True)
    newer = [path for path in others if path.parent == folder and last.exists() and age(path)[0] > age(last)[0]]
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
    return None if isinstance(held, dict) and "optimizer_states" in held else "it holds weights alone, without the state of a run"


def _why_broken_shards(folder: Path) -> str | None:
    """Look through a folder of shards: torch itself unpickles its list of contents, and every number in it, as they come."""
    for name in (INDEX, "meta.pt"):  # written last
        if not (folder / name).is_file():
            return f"its {name} is missing"
    try:
        held = read_index(folder)
        torch.load(folder / "meta.pt", map_location="cpu", weights_only=True)
        for index, place in held.storage_data.items():
            path = folder / place.relative_path
            if path.stat().st_size < place.offset + place.length:
                return f"it is damaged ({place.relative_path} is cut short)"
            if type(held.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
                with open(path, "rb") as file:
                    file.seek(place.offset)
                    torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        if "GLOBAL" in str(error):
            raise ValueError(unsafe(folder, error)) from error
        return f"it is damaged ({str(error).splitlines()[0]})"
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing: files that did not get their name yet."""
    for place in (folder, folder / "checkpoints", folder / "rollouts"):
        for path in place.glob(".*") if place.is_dir() else ():
            if _LEFTOVER.fullmatch(path.name):
                remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder of shards, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
