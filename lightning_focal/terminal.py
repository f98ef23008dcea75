"""What the command line says when something is wrong, and what it keeps quiet about."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["QUIET_HELP", "TRACEBACK_ENV", "make_console", "near", "plain_errors", "plain_message", "quiet", "say_less"]

QUIET_HELP = "Say nothing but warnings, errors and what came out."
"""Of the option ``--quiet``."""

TRACEBACK_ENV = "LIGHTNING_FOCAL_TRACEBACK"
"""Environment variable that, when set, has errors shown with where they came from."""

_PACKAGE = str(Path(__file__).parent)
_SCAFFOLDING = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Expected a <class 'NoneType'>|"
    r"Expected a path but .* either not accessible or invalid|Given value type: |Given value: (NestedArg|Namespace)\(|$)"
)
_NOISE = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    r"The dirpath has changed from .* to ",  # of checkpoints: a resumed run goes on in its own folder, others save none
    r"Checkpoint directory .* exists and is not empty",  # so it should be, in a resumed run
    r"Using ModelCheckpoint with manual optimization and every_n_train_steps",  # weights after the step are what is wanted
    r"It is recommended to use `self.log\('val/.*sync_dist=True",  # they are the same on every process already
    r"Total length of `list` across ranks is zero",  # a run without held-out prompts
    r"It is recommended to use `self\.log\(.*sync_dist=True",  # what is logged is already that of all processes
)
_QUIET_LOGS = ("💡 Tip", "TPU available: False")


def near(word: str, known: Sequence[str]) -> str:
    """Return a hint at the known word that is most like a mistyped one; empty where none is.

    >>> near("FocalRewrad", ["StaticReward", "FocalReward"])
    ' (did you mean FocalReward?)'
    """
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def plain_message(message: str, strategies: Sequence[str] = ()) -> str:
    """Return a parser's message without the parts that speak of the parser.

    Args:
        message: of jsonargparse.
        strategies: known reward strategies, named where an unknown one was asked for.

    >>> print(plain_message('''Parser key "reward":
    ...   Does not validate against any of the Union subtypes
    ...   Subtypes: [<class 'RewardStrategy'>, <class 'NoneType'>]
    ...   Errors:
    ...     - `gamma` must be >= 0, got -1.0
    ...     - Expected a <class 'NoneType'>
    ...   Given value type: <class 'jsonargparse._namespace.Namespace'>'''))
    Parser key "reward":
        - `gamma` must be >= 0, got -1.0
    """
    unknown = re.search(r'Parser key "reward"(?s:.*)Expected a dot import path string: (\S+)', message)
    if unknown:
        return (
            f"`reward` must be a reward strategy, got {unknown[1]!r}{near(unknown[1], strategies)}; known are "
            f"{', '.join(strategies)}, and the import path of any other, my_package.MyReward"
        )
    return "\n".join(line for line in message.splitlines() if not _SCAFFOLDING.match(line))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Within the context an error that this package, or the parser, raised itself ends the process with its message alone.

    Other errors keep their traceback, and so does every one where :data:`TRACEBACK_ENV` is set.

    Raises:
        SystemExit: with status 1.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(TRACEBACK_ENV) or not _is_ours(error):
            raise
        print(f"error: {plain_message(str(error)).strip().removeprefix('- ')}", file=sys.stderr)  # noqa: T201
        print(f"tip: {TRACEBACK_ENV}=1 shows where this came from", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error


def _is_ours(error: Exception) -> bool:
    """Whether the error was raised on purpose, for a person to read: by this package, or by those that check a configuration."""
    if type(error).__name__ == "MisconfigurationException":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1].filename if frames else ""
    raised_here = place.startswith(_PACKAGE) and (frames[-1].line or "").lstrip().startswith("raise")
    return raised_here or (isinstance(error, ValueError) and f"{os.sep}jsonargparse{os.sep}" in place)


class _PlainConsole(Console):
    """A console that draws frames around tables on terminals alone."""

    def print(self, *objects: Any, **kwargs: Any) -> None:
        for table in objects:
            if isinstance(table, Table) and not self.is_terminal:
                table.box, table.pad_edge = None, False
        super().print(*objects, **kwargs)


def make_console(**settings: Any) -> Console:
    """Return where a command writes to: a terminal with colours, frames and live lines, or plain lines.

    Lines are plain where no terminal listens, where ``TERM`` is ``dumb``, and under continuous integration (``CI`` set to anything
    but 0 or false), where a terminal is only pretended. ``NO_COLOR`` takes away colours alone.

    Args:
        **settings: of :class:`rich.console.Console`.
    """
    settings.setdefault("highlight", False)
    if os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("TERM") == "dumb":
        settings = {"force_terminal": False, "color_system": None, **settings}
    return _PlainConsole(**settings)


def say_less() -> None:
    """Leave only warnings and errors of the logs, Lightning's own included."""
    for name in ("lightning_focal", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def quiet() -> None:
    """Silence lines of other packages that a person can do nothing about; everything else is left to be seen."""
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_QUIET_LOGS)
