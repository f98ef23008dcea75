"""Where ``lightning_focal`` starts: overview, help and complaints about options at once, everything else once it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

import lightning_focal
from lightning_focal.overview import EXAMPLES, OVERVIEW, help_of, mistakes
from lightning_focal.terminal import near, plain_errors, program

__all__ = ["COMMANDS", "RUNS", "main"]

RUNS = {
    "fit": "Train a policy. Every key can also stand in a file: --config FILE; a later file or option wins.",
    "validate": "Answer the held-out prompts once, and show how far each criterion is met.",
    "test": "Answer the test prompts once, and show how far each criterion is met.",
    "predict": "Answer prompts, and write the responses with their criterion scores.",
}
"""Sub-commands that are Trainer methods, and what they are for."""

COMMANDS = {
    name: (f"lightning_focal.commands.{name.replace('-', '_')}", f"{name.replace('-', '_')}_command")
    for name in EXAMPLES
    if name not in RUNS
}
"""Sub-commands that are no Trainer method: where each one lives."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; without a command, or asked for help, print the overview.

    Args:
        args: as on the command line, without the program's name; None = ``sys.argv``.
    """
    command, *rest = (sys.argv[1:] if args is None else args) or [""]
    if command in ("", "-h", "--help", "help"):
        _end(OVERVIEW, 0 if command else 2)
    if command == "--version":
        _end(f"lightning_focal {lightning_focal.__version__}\n")
    if command not in (*RUNS, *COMMANDS):
        hint = near(command, [*RUNS, *COMMANDS], 0.6)
        names = ", ".join(EXAMPLES)
        _refuse(f"there is no command {command!r}{hint}; there are {names}", f"{program()} --help explains them")
    ours = rest[: rest.index("--")] if "--" in rest else rest[:1] if command == "lm-eval" else rest
    if {"-h", "--help"} & set(ours):
        _end(help_of(command, ours))
    if not rest:
        example = EXAMPLES[command].replace("lightning_focal", program(), 1)
        _refuse(f"`{command}` must be told what to do, for example:\n  {example}", f"{program()} {command} --help explains more")
    with plain_errors():
        if command != "lm-eval" and (wrong := next(mistakes(command, rest), None)):
            _refuse(wrong, f"options are explained by {program()} {command} --help")
        with _saying(f"lightning_focal {command}: loading ..."):
            module, function = COMMANDS.get(command, ("lightning_focal.cli", "run_command"))
            run = getattr(import_module(module), function)
        run(rest) if command in COMMANDS else run(command, rest)


def _end(text: str, status: int = 0) -> NoReturn:
    sys.stdout.write(text)
    raise SystemExit(status)


def _refuse(words: str, tip: str) -> NoReturn:
    sys.stderr.write(f"error: {words}\ntip: {tip}\n")
    raise SystemExit(2)


@contextmanager
def _saying(words: str) -> Iterator[None]:
    """Show a line on a terminal for as long as it takes: a person is answered at once, imports take seconds."""
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "LOCAL_RANK" not in os.environ
    sys.stderr.write(words if shown else "")
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K" if shown else "")
        sys.stderr.flush()
