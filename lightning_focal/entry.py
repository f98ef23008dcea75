"""Where ``lightning_focal`` starts: the overview at once, everything else once it is asked for."""

from __future__ import annotations

import sys

from lightning_focal.overview import OVERVIEW

__all__ = ["main"]


def main(args: list[str] | None = None) -> None:
    """Run the command line; without a command, or asked for help, print the overview.

    Args:
        args: as on the command line, without the program's name; None = ``sys.argv``.
    """
    given = sys.argv[1:] if args is None else args
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(OVERVIEW)
        raise SystemExit(0 if given else 2)
    from lightning_focal.cli import main as run  # seconds of imports

    run(given)
