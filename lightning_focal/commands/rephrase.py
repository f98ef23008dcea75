"""``lightning_focal rephrase``: questions in, pairs out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from lightning_focal.data import read_questions
from lightning_focal.generation import Sampling
from lightning_focal.parsing import CommandParser
from lightning_focal.rephrasing import Checks, Journal, LocalWriter, ServerWriter, Tally, Writer, read_instruction, rephrase
from lightning_focal.rephrasing.checks import REASONS
from lightning_focal.rephrasing.journal import beside, write_outputs
from lightning_focal.servers import ChatClient
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
    add("--server", type=str | None, default=None, help="Address of an OpenAI-compatible server, http://localhost:8000/v1.")
    add("--model", type=str | None, default=None, help="The model, as the server calls it.")
    add("--policy", type=str | None, default=None, help="A local model in place of a server: a folder, a hub id, pypi:, random:.")
    add("--key_env", type=str | None, default=None, help="Environment variable that holds the server's key; none = no key.")
    add("--instruction", type=str | None, default=None, help="File with an instruction of your own; {question} is filled in.")
    add("--attempts", type=int, default=3, help="Replies to a question that may be rejected before it is dropped.")
    add("--keep_numbers", action="store_true", help="Reject a rephrasing that loses a number of the question or adds one.")
    add("--longest", type=float, default=4.0, help="Reject one of more than so many times the question's characters.")
    add("--limit", type=int | None, default=None, help="Only the first so many questions; raise it later to go on.")
    add("--concurrency", type=int, default=8, help="Questions asked at once; for a local model, answered in one batch.")
    add("--temperature", type=float, default=0.7, help="Of the replies; at 0 every question is asked once, whatever --attempts.")
    add("--max_tokens", type=int | None, default=1024, help="Longest reply in tokens; null leaves it to the server.")
    add("--seed", type=int | None, default=None, help="Of the replies; none = the server's own draw, 0 for a local model.")
    add("--body", type=dict[str, Any], default={}, help="Further parameters of the server's requests, '{top_p: 0.9}'.")
    add("--timeout", type=float, default=120.0, help="Seconds to wait for one reply of the server before it is asked again.")
    add("--deadline", type=float, default=600.0, help="Seconds for one reply, repetitions included.")
    add("--dtype", type=str, default="float32", help="Of a local model's weights: float32, bfloat16, float16, auto.")
    add("--on_bad_row", type=str, default="error", help="error stops at a malformed row of the input, skip leaves it out.")
    return made


def rephrase_command(args: list[str]) -> None:
    """Run the command; exit status 1 where questions are left undone or no pair was made, 130 where it was interrupted."""
    config = parser().parse_args(args)
    source, out = Path(config.input), Path(config.out)
    _check_arguments(config)
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
                writer = _writer(config)
                with _progress() as show:
                    attempts = 1 if config.temperature == 0 else config.attempts
                    seed = 0 if config.policy is not None and config.seed is None else config.seed
                    work = (rows, writer, journal, checks)
                    rephrase(*work, instruction=instruction, attempts=attempts, seed=seed, tally=tally, on_progress=show)
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


def _check_arguments(config: Namespace) -> None:
    if (config.server is None) == (config.policy is None):
        raise ValueError("write either `--server URL --model NAME` or `--policy SOURCE`")
    if config.server is not None and config.model is None:
        raise ValueError("`--server` needs `--model`, the model as the server calls it")
    for name in ("model", "key_env", "body"):
        if config.policy is not None and config[name]:
            raise ValueError(f"`--{name}` is for a server, got {config[name]!r} together with `--policy`")
    if config.policy is not None and config.max_tokens is None:
        raise ValueError("`--max_tokens` must be a number for a local model, got null")
    for name in ("attempts", "concurrency", "limit", "max_tokens"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(f"`--{name}` must be >= 1, got {config[name]}")
    if not 0 <= config.temperature < float("inf"):
        raise ValueError(f"`--temperature` must be finite and >= 0, got {config.temperature}")
    if Path(config.out).suffix != ".jsonl":
        raise ValueError(f"`--out` must end in .jsonl, got {config.out!r}")
    if Path(config.out).resolve() == Path(config.input).resolve():
        raise ValueError(f"`--out` must not be the input, got {config.out!r} for both")
    for name in ("model", "messages"):
        if name in config.body:
            raise ValueError(f"`--body` must hold further parameters, got {name!r}, which is set already")


def _header(config: Namespace, source: Path, instruction: str) -> dict[str, Any]:
    """What makes two calls the same work: the input's content, and everything that changes what is written."""
    names = ("model", "policy", "attempts", "keep_numbers", "longest", "temperature", "max_tokens", "seed", "body", "on_bad_row")
    settings = {name: config[name] for name in names}
    settings["dtype"] = config.dtype if config.policy is not None else None
    settings["instruction"] = hashlib.sha256(instruction.encode()).hexdigest()[:16]
    return {"input": {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}, "settings": settings}


def _writer(config: Namespace) -> Writer:
    if config.policy is not None:
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_tokens)
        return LocalWriter(config.policy, sampling, config.concurrency, config.dtype)
    limits = {"concurrency": config.concurrency, "timeout_s": config.timeout, "deadline_s": config.deadline}
    client = ChatClient(config.server, config.model, config.key_env, **limits)
    return ServerWriter(client, {"temperature": config.temperature, "max_tokens": config.max_tokens, **config.body})


@contextmanager
def _progress() -> Iterator[Any]:
    """Show a bar, and give the function that moves it."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[said]}")
    console = make_console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("rephrasing", total=None, said="")

        def show(tally: Tally) -> None:
            rejected = ", ".join(f"{reason} {count}" for reason, count in tally.rejected.most_common())
            said = f"{tally.dropped.total()} dropped" + (f" (replies rejected: {rejected})" if rejected else "")
            bar.update(task, total=tally.questions, completed=tally.finished, said=said)

        yield show


def _summarise(console: Console, tally: Tally, out: Path) -> None:
    undone = f", {len(tally.undone)} without a reply" if tally.undone else ""
    console.print(f"{tally.pairs} pairs of {tally.questions} questions, {tally.dropped.total()} dropped{undone}")
    if tally.rejected:
        table = Cells("reason", "replies rejected", "questions dropped", "")
        for reason, count in tally.rejected.most_common():
            table.add_row(reason, str(count), str(tally.dropped[reason]), REASONS.get(reason, ""))
        console.print(table)
    console.print(f"written to {out}, {beside(out, 'rejected').name}, {beside(out, 'journal').name}", soft_wrap=True)
