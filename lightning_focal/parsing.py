"""What the parsers of all commands share: an example in the help, and complaints of a few lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lightning_focal.files import why_unreadable
from lightning_focal.overview import EXAMPLES
from lightning_focal.terminal import plain_message, program

__all__ = ["CommandParser", "HelpFormatter", "PlainParser"]

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


class PlainParser:
    """Beside a parser of jsonargparse: its help is that, its options are written out, its complaint is one message.

    A broken YAML file is named with its line.
    """

    prog: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, "allow_abbrev": False, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:
        """Parse the arguments given, once the YAML files among them can be read."""
        before = ""
        for word in sys.argv[1:] if args is None else args:
            key, _, value = word.partition("=") if word.startswith("-") else (before, "", word)
            before = word
            # A task of the harness, say, is YAML with tags of its own.
            ours = key in ("-c", "--config") or key.split(".")[0] in ("--model", "--data", "--reward", "--trainer")
            file = ours and value.endswith((".yaml", ".yml")) and Path(value).is_file()
            if file and (why := why_unreadable(Path(value), keys=key in ("-c", "--config"))) is not None:
                self.error(f"`{key}`: {why}")
        return super().parse_args(args, *more, **named)  # type: ignore[misc]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and where options are explained; exit status 2."""
        prog = self.prog.replace(" [options]", "").replace("lightning_focal", program(), 1)
        sys.stderr.write(f"error: {plain_message(message)}\ntip: options are explained by {prog} --help\n")
        raise SystemExit(2)


class CommandParser(PlainParser, ArgumentParser):  # type: ignore[misc]
    """The parser of a command."""
