"""``lightning_focal report``: what came out of some runs, as one HTML file."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from lightning_focal.parsing import CommandParser
from lightning_focal.report.page import ROLLOUTS, write_report
from lightning_focal.terminal import make_console

__all__ = ["parser", "report_command"]


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal report",
        description="Write what came out of some runs as one HTML file that needs neither a network nor anything else. Runs whose "
        "configurations differ in seeds alone count as one method, with intervals over seeds.",
    )
    made.add_argument("runs", type=str, nargs="+", help="Run folders.")
    made.add_argument("--out", type=str, default=None, help="File; report.html in the first run folder by default.")
    rollouts = "Training rollouts to show at most, over all runs; 0 = none, and no tags."
    made.add_argument("--rollouts", type=int, default=ROLLOUTS, help=rollouts)
    return made


def report_command(args: list[str]) -> None:
    """Run the command; see :func:`parser` for its arguments."""
    config = parser().parse_args(args)
    runs = [str(Path(run).resolve()) if Path(run).name in ("", "..") else run for run in config.runs]  # . has no name
    written = write_report(runs, config.out, config.rollouts)
    console = make_console(soft_wrap=True)
    for line in (*written.verdict, *(f"note: {note}" for note in written.notes)):
        console.print(line)
    console.print(f"written to {written.path}: {written.size / 1e6:.1f} MB")
