"""``lightning_focal rephrase``: questions in, pairs out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from lightning_focal.commands.writing import (
    add_model_options,
    add_reply_options,
    check_writing,
    make_writer,
    progress_of,
    tries_of,
)
from lightning_focal.data import read_questions
from lightning_focal.parsing import CommandParser
from lightning_focal.rephrasing import Checks, Journal, Tally, read_instruction, rephrase
from lightning_focal.rephrasing.checks import REASONS
from lightning_focal.rephrasing.journal import beside, write_outputs
from lightning_focal.terminal import Cells, make_console

__all__ = ["parser", "rephrase_command"]


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal rephrase",
        description="Write a rephrasing of every question: new words, a new setting, the same mathematics and answer. The same "
        "command again goes on where it stopped.",
    )
    add = made.add_argument
    add("input", type=str, help="Questions: .jsonl, .json or .parquet, in any layout that PairDataModule reads.")
    add("--out", type=str, required=True, help="File of pairs to write, .jsonl; dropped questions go to OUT.rejected.jsonl.")
    add_model_options(made)
    add("--instruction", type=str | None, default=None, help="File with an instruction of your own; {question} is filled in.")
    add("--attempts", type=int, default=3, help="Replies to a question that may be rejected before it is dropped.")
    add("--keep_numbers", action="store_true", help="Reject a rephrasing that loses a number of the question or adds one.")
    add("--longest", type=float, default=4.0, help="Reject one of more than so many times the question's characters.")
    add("--limit", type=int | None, default=None, help="Only the first so many questions; raise it later to go on.")
    add_reply_options(made)
    add("--on_bad_row", type=str, default="error", help="error stops at a malformed row of the input, skip leaves it out.")
    return made


def rephrase_command(args: list[str]) -> None:
    """Run the command; exit status 1 where questions are left undone or no pair was made, 130 where it was interrupted."""
    config = parser().parse_args(args)
    source, out = Path(config.input), Path(config.out)
    check_writing(config, source)
    instruction = read_instruction(config.instruction)
    checks = Checks(config.keep_numbers, config.longest)
    if not source.is_file():
        raise FileNotFoundError(f"`input` must be an existing file, got {config.input!r} (looked in {Path.cwd()})")
    everything = read_questions(source, on_bad_row=config.on_bad_row)
    rows = everything[: config.limit]
    journal_file = beside(out, "journal")
    if out.exists() and not journal_file.exists():
        unknown = f"no {journal_file.name} beside it says what it was made from"
        raise FileExistsError(f"`out` {config.out!r} exists, and {unknown}: name another file")
    console = make_console()
    with Journal(journal_file, _header(config, source, instruction)) as journal:
        tally, status = Tally.of(rows, journal), 0
        if journal.repaired:
            console.print(f"{journal_file}: cut off a torn last line")
        if tally.finished:
            console.print(f"{tally.finished} of {len(rows)} questions are finished")
        try:
            if tally.finished < len(rows):
                writer = make_writer(config)
                with progress_of("rephrasing") as show:
                    work = (rows, writer, journal, checks)
                    rephrase(*work, instruction=instruction, tally=tally, on_progress=show, **tries_of(config))
        except KeyboardInterrupt:
            status = 130
        finally:
            tally = replace(Tally.of(rows, journal), undone=tally.undone)  # as it is on disk
            if journal.entries:
                write_outputs(out, everything, journal.entries)
                _summarise(console, tally, out)
    if status or tally.finished < tally.questions:
        console.print(f"{tally.questions - tally.finished} questions are not finished: the same command goes on with them")
        raise SystemExit(status or 1)
    if not tally.pairs:
        console.print("no pair was made: look at the replies that were rejected")
        raise SystemExit(1)


def _header(config: Namespace, source: Path, instruction: str) -> dict[str, Any]:
    """What makes two calls the same work: the input's content, and everything that changes what is written."""
    names = ("model", "policy", "attempts", "keep_numbers", "longest", "temperature", "max_tokens", "seed", "body", "on_bad_row")
    settings = {name: config[name] for name in names}
    settings["dtype"] = config.dtype if config.policy is not None else None
    settings["instruction"] = hashlib.sha256(instruction.encode()).hexdigest()[:16]
    return {"input": {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}, "settings": settings}


def _summarise(console: Console, tally: Tally, out: Path) -> None:
    undone = f", {len(tally.undone)} without a reply" if tally.undone else ""
    console.print(f"{tally.pairs} pairs of {tally.questions} questions, {tally.dropped.total()} dropped{undone}")
    if tally.rejected:
        table = Cells("reason", "replies rejected", "questions dropped", "")
        for reason, count in tally.rejected.most_common():
            table.add_row(reason, str(count), str(tally.dropped[reason]), REASONS.get(reason, ""))
        console.print(table)
    console.print(f"written to {out}, {beside(out, 'rejected').name}, {beside(out, 'journal').name}", soft_wrap=True)
