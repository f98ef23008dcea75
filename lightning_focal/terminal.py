"""What the command line says when something is wrong, and what it keeps quiet about."""

from __future__ import annotations

import difflib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "TRACEBACK_ENV",
    "Cells",
    "follow_stderr",
    "harmless",
    "make_console",
    "near",
    "plain_errors",
    "plain_message",
    "program",
    "quiet",
    "say_less",
    "shortened",
]

TRACEBACK_ENV = "LIGHTNING_FOCAL_TRACEBACK"
"""Environment variable that, when set, has errors shown with where they came from."""

_PACKAGE = str(Path(__file__).parent)
_SCAFFOLDING = re.compile(
    r"\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Expected a <class '(NoneType|collections.abc.Iterable)'>|"
    r"Expected a path but .* either not accessible or invalid|Given value type: |Given value: (NestedArg|Namespace)\(|$)"
)
_NOISE = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    r"The dirpath has changed from .* to ",  # of checkpoints: a resumed run goes on in its own folder, others save none
    r"Checkpoint directory .* exists and is not empty",  # so it should be, in a resumed run
    r"Using ModelCheckpoint with manual optimization and every_n_train_steps",  # weights after the step are what is wanted
    r"You requested to overfit but enabled .* dataloader shuffling",  # the loader has seen to that itself
    r"Total length of `list` across ranks is zero",  # a run without held-out prompts
    r"It is recommended to use `self\.log\(.*sync_dist=True",  # what is logged is already that of all processes
)
_QUIET_LOGS = ("💡 Tip", "TPU available: False")
_ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys in place of showing it: control characters, turns of the direction of writing; and halves of characters."""


def harmless(text: str) -> str:
    r"""Return a text as a terminal can show it: what it would obey is spelt out; line breaks and tabs stay.

    >>> print(harmless("\x1b[31mred\r"))
    \x1b[31mred\r
    """
    return _ORDERS.sub(lambda found: repr(found[0])[1:-1], text)


def shortened(text: str, limit: int = 60) -> str:
    """Return a text on one line, at most ``limit`` characters of it: of a longer one the beginning and the end.

    >>> shortened("at most  40 words"), shortened("no list, not even a short one", 16)
    ('at most 40 words', 'no list, n…t one')
    """
    line = " ".join(text.split())
    end = (limit - 1) // 3
    return line if len(line) <= limit else f"{line[: limit - 1 - end]}…{line[len(line) - end :]}"


def near(word: str, known: Sequence[str], alike: float = 0.5) -> str:
    """Return a hint at the known word that is most like a mistyped one; empty where none is ``alike``, in [0, 1].

    >>> near("FocalRewrad", ["StaticReward", "FocalReward"])
    ' (did you mean FocalReward?)'
    """
    found = difflib.get_close_matches(word, known, n=1, cutoff=alike)
    return f" (did you mean {found[0]}?)" if found else ""


def plain_message(message: str) -> str:
    """Return a parser's message without the parts that speak of the parser.

    Args:
        message: of jsonargparse.

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
    lines = (line for line in message.splitlines() if not _SCAFFOLDING.match(line))
    return "\n".join(re.sub(r"Type typing\.Callable.*? expects a function or a callable class: ", "", line) for line in lines)


def program() -> str:
    """Return how this program was started, to be typed again: ``lightning_focal``, or ``python -m lightning_focal``."""
    typed = sys.orig_argv
    if typed[1:3] == ["-m", "lightning_focal"]:
        return shlex.join(typed[:3])
    path = sys.argv[0]
    elsewhere = Path(path).name == "lightning_focal" and shutil.which("lightning_focal") != path
    return shlex.quote(path) if elsewhere else "lightning_focal"


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
        print(f"error: {harmless(plain_message(str(error)).strip().removeprefix('- '))}", file=sys.stderr)  # noqa: T201
        print(f"tip: {TRACEBACK_ENV}=1 shows where this came from", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error


def _is_ours(error: Exception) -> bool:
    """Whether the error was raised on purpose, for a person to read: by this package, by Lightning, or by the parser."""
    if type(error).__name__ == "MisconfigurationException":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1].filename if frames else ""
    raised = (frames[-1].line or "").lstrip().startswith("raise") if frames else False
    by_lightning = any(f"{os.sep}lightning{os.sep}{part}{os.sep}" in place for part in ("pytorch", "fabric"))
    by_parser = isinstance(error, ValueError) and f"{os.sep}jsonargparse{os.sep}" in place
    return (raised and (place.startswith(_PACKAGE) or by_lightning)) or by_parser


class Cells(Table):
    """A table whose cells are on one line and no longer than a person reads; those of columns that fold stay whole."""

    def add_row(self, *cells: Any, **kwargs: Any) -> None:
        """Add a row of texts."""
        folds = [column.overflow == "fold" for column in self.columns]
        super().add_row(*(c if fold else shortened(c) for c, fold in zip(cells, folds, strict=False)), **kwargs)


class _DataConsole(Console):
    """A console for texts of anybody: they are shown as they are, nothing in them is markup or an order to the terminal.

    Frames are drawn around tables on terminals alone.
    """

    def print(self, *objects: Any, **kwargs: Any) -> None:
        for table in objects:
            if isinstance(table, Table) and not self.is_terminal:
                table.box, table.pad_edge = None, False
        super().print(*objects, **kwargs)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Every text passes here, also titles and cells of tables."""
        return super().render_str(harmless(text), **{**kwargs, "markup": False, "emoji": False})


def make_console(**settings: Any) -> Console:
    """Return where a command writes to: a terminal with colours, frames and live lines, or plain lines.

    Texts are shown as they are: no markup, no emoji codes, control characters spelt out (:func:`harmless`). Lines are plain where
    no terminal listens, where ``TERM`` is ``dumb``, and under continuous integration (``CI`` set to anything but 0 or false), where
    a terminal is only pretended. ``NO_COLOR`` takes away colours alone.

    Args:
        **settings: of :class:`rich.console.Console`.
    """
    settings.setdefault("highlight", False)
    if os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("TERM") == "dumb":
        settings = {"force_terminal": False, "color_system": None, **settings}
    return _DataConsole(**settings)


class _Stderr(io.TextIOBase):
    """Whatever is ``sys.stderr`` when something is written."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def follow_stderr() -> None:
    """Have logs go where ``sys.stderr`` leads when they are written: above a live line while there is one."""
    for name in ("", "lightning", "lightning.pytorch", "lightning.fabric", "transformers"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.__stderr__):
                handler.setStream(_Stderr())


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
