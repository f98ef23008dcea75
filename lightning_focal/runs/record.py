"""run.json: how a run was started, each time it was."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning_focal
from lightning_focal.files import write_json

__all__ = ["commit", "record_end", "record_start"]

_NAME = "run.json"
_PACKAGES = ("torch", "lightning", "transformers")


def record_start(folder: str | Path, batch: int, device: str) -> None:
    """Add a start to ``run.json``: command, date, versions, commit, device.

    Args:
        folder: the run folder.
        batch: rollout batches trained on before; 0 for a run that begins, which forgets what another left there.
        device: in words.
    """
    entry = {
        "command": _command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch": batch,
        "ended": False,
        "version": lightning_focal.__version__,
        "commit": commit(),
        "device": device,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }
    earlier = [start for start in _starts(folder) if start.get("batch", 0) < batch]
    write_json(Path(folder) / _NAME, {"starts": [*earlier, entry]})


def record_end(folder: str | Path) -> None:
    """Note that the run came to its end."""
    starts = _starts(folder)
    if starts:
        starts[-1]["ended"] = True
        write_json(Path(folder) / _NAME, {"starts": starts})


def _starts(folder: str | Path) -> list[dict[str, Any]]:
    try:
        content = json.loads((Path(folder) / _NAME).read_text(encoding="utf-8"))
        return list(content["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no record, or a broken one: a new one begins


def commit() -> str | None:
    """Return the commit of the package's checkout, ``+changes`` behind it where files differ; None outside a checkout."""
    git = ["git", "-C", str(Path(lightning_focal.__file__).parent)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def said(*words: str) -> str:
        return subprocess.run(
            [*git, *words], capture_output=True, text=True, check=True, timeout=20, env=environment
        ).stdout.strip()

    try:
        if not said("ls-files", "__init__.py"):
            return None  # in somebody else's checkout
        return said("rev-parse", "HEAD") + ("+changes" if said("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> str:
    program = Path(sys.argv[0]).name
    return shlex.join([*(["python", "-m", "lightning_focal"] if program == "__main__.py" else [program]), *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
