"""What the commands that have a model write share: their options, the model, and a bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from lightning_focal.generation import Sampling
from lightning_focal.rephrasing import LocalWriter, ServerWriter, Tally, Writer
from lightning_focal.servers import ChatClient
from lightning_focal.terminal import make_console

__all__ = ["add_model_options", "add_reply_options", "check_writing", "make_writer", "progress_of", "tries_of"]


def add_model_options(made: ArgumentParser) -> None:
    """Add the options that say who writes."""
    add = made.add_argument
    add("--server", type=str | None, default=None, help="Address of an OpenAI-compatible server, http://localhost:8000/v1.")
    add("--model", type=str | None, default=None, help="The model, as the server calls it.")
    add("--policy", type=str | None, default=None, help="A local model in place of a server: a folder, a hub id, pypi:, random:.")
    add("--key_env", type=str | None, default=None, help="Environment variable that holds the server's key; none = no key.")


def add_reply_options(made: ArgumentParser) -> None:
    """Add the options of the replies."""
    add = made.add_argument
    add("--concurrency", type=int, default=8, help="Questions asked at once; for a local model, answered in one batch.")
    add("--temperature", type=float, default=0.7, help="Of the replies; at 0 every question is asked once, whatever --attempts.")
    add("--max_tokens", type=int | None, default=1024, help="Longest reply in tokens; null leaves it to the server.")
    add("--seed", type=int | None, default=None, help="Of the replies; none = the server's own draw, 0 for a local model.")
    add("--body", type=dict[str, Any], default={}, help="Further parameters of the server's requests, '{top_p: 0.9}'.")
    add("--timeout", type=float, default=120.0, help="Seconds to wait for one reply of the server before it is asked again.")
    add("--deadline", type=float, default=600.0, help="Seconds for one reply, repetitions included.")
    add("--dtype", type=str, default="float32", help="Of a local model's weights: float32, bfloat16, float16, auto.")


def check_writing(config: Namespace, source: Path) -> None:
    """Raise ``ValueError`` for options that are out of range, or do not go together; ``source`` is the input."""
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
    if Path(config.out).resolve() == source.resolve():
        raise ValueError(f"`--out` must not be the input, got {config.out!r} for both")
    for name in ("model", "messages"):
        if name in config.body:
            raise ValueError(f"`--body` must hold further parameters, got {name!r}, which is set already")


def tries_of(config: Namespace) -> dict[str, Any]:
    """Return ``attempts`` and ``seed`` of the replies; at temperature 0 one reply is like the other."""
    seed = 0 if config.policy is not None and config.seed is None else config.seed
    return {"attempts": 1 if config.temperature == 0 else config.attempts, "seed": seed}


def make_writer(config: Namespace, body: Mapping[str, Any] | None = None) -> Writer:
    """Return the model that writes; ``body`` holds parameters of a server's requests, which `--body` overrides."""
    if config.policy is not None:
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_tokens)
        return LocalWriter(config.policy, sampling, config.concurrency, config.dtype)
    limits = {"concurrency": config.concurrency, "timeout_s": config.timeout, "deadline_s": config.deadline}
    client = ChatClient(config.server, config.model, config.key_env, **limits)
    return ServerWriter(
        client, {"temperature": config.temperature, "max_tokens": config.max_tokens, **(body or {}), **config.body}
    )


@contextmanager
def progress_of(title: str) -> Iterator[Any]:
    """Show a bar, and give the function that moves it."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[said]}")
    console = make_console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, said="")

        def show(tally: Tally) -> None:
            rejected = ", ".join(f"{reason} {count}" for reason, count in tally.rejected.most_common())
            said = f"{tally.dropped.total()} dropped" + (f" (replies rejected: {rejected})" if rejected else "")
            bar.update(task, total=tally.questions, completed=tally.finished, said=said)

        yield show
