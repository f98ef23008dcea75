"""What the parsers of all commands share: help without markup, and complaints of a few lines."""

from __future__ import annotations

import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from lightning_focal.overview import class_arguments
from lightning_focal.terminal import near, plain_message, program

__all__ = ["CommandParser", "HelpFormatter", "PlainParser"]

_ROLE = re.compile(r":(?:\n\s+)?[a-z][a-z\s]*(?::[a-z\s]+)?:\s*`~?([^`]+)`")


class HelpFormatter(DefaultHelpFormatter):  # type: ignore[misc]
    """jsonargparse's, without a docstring's markup."""

    def format_help(self) -> str:
        """Return the help."""
        text = str(super().format_help()).replace("``", "")
        return _ROLE.sub(lambda found: "".join(found[1].split()).rsplit(".", 1)[-1], text)  # a long one is broken over lines


class PlainParser:
    """Beside a parser of jsonargparse: its help is that, its options are written out, its complaint is one message."""

    prog: str
    exit_on_error: bool
    get_defaults: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, "allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and where options are explained; exit status 2. A part's parser leaves that to the one around it."""
        if not self.exit_on_error:
            known = [*vars(self.get_defaults())]
            words = re.sub(
                r"Option '(\w+)' is not accepted", lambda found: f"there is no key {found[1]!r}{near(found[1], known)}", message
            )
            raise ArgumentError(None, words) from ex
        prog = self.prog.replace(" [options]", "").replace("lightning_focal", program(), 1)
        classes = [*class_arguments()]
        words = re.sub(
            r"Expected a dot import path string: (\S+)",
            lambda found: f"there is no class {found[1]!r}{near(found[1], classes, 0.8)}",
            plain_message(message),
        )
        first, *more = dict.fromkeys(words.splitlines())  # a class, and a list of it, complain alike
        sys.stderr.write("\n".join([f"error: {first}", *more, f"tip: options are explained by {prog} --help\n"]))
        raise SystemExit(2)


class CommandParser(PlainParser, ArgumentParser):  # type: ignore[misc]
    """The parser of a command."""
