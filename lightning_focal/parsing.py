"""What the parsers of all commands share: an example in the help, complaints of a few lines, and the Trainer's defaults."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_focal.overview import EXAMPLES
from lightning_focal.terminal import plain_message

__all__ = ["TRAINER_DEFAULTS", "CommandParser", "HelpFormatter", "RunParser"]

TRAINER_DEFAULTS = MappingProxyType(
    {
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
)
"""Of Lightning's Trainer, for every command that runs one."""


_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?([^`]+)`")


class HelpFormatter(DefaultHelpFormatter):  # type: ignore[misc]
    """jsonargparse's, with the example of the command at the end."""

    def __init__(self, prog: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(prog, *args, **kwargs)
        self.command = prog.replace(" [options]", "").removeprefix("lightning_focal ")

    def format_help(self) -> str:
        """Return the help without a docstring's markup; a line of usage alone stays alone."""
        text = str(super().format_help()).replace("``", "")
        text = _ROLE.sub(lambda found: "".join(found[1].split()).rsplit(".", 1)[-1], text)  # a long one is broken over lines
        if self.command not in EXAMPLES or "\noptions:" not in text:
            return text
        return f"{text}\nexample:\n  {EXAMPLES[self.command]}\n"


class _Plain:
    """A parser with that help, whose complaint is one message."""

    prog: str
    strategies: Sequence[str] = ()
    """Names of known reward strategies, for a complaint about an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and where options are explained; exit status 2."""
        prog = self.prog.replace(" [options]", "")
        sys.stderr.write(f"error: {plain_message(message, self.strategies)}\ntip: options are explained by {prog} --help\n")
        raise SystemExit(2)


class CommandParser(_Plain, ArgumentParser):  # type: ignore[misc]
    """The parser of a command."""


class RunParser(_Plain, LightningArgumentParser):
    """The parser of a command that runs the Trainer; its line of usage does not repeat a hundred options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, usage="%(prog)s [options]", **kwargs)
