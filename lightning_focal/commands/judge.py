"""``lightning_focal judge``: a dry run of a judge's server, or a judge measured against labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Column

from lightning_focal.commands.agreement import agreement_command, walk_config
from lightning_focal.judges import HTTPJudge, JudgeRequest, Outcome
from lightning_focal.judges.http.verdicts import CUT_OFF, NO_VERDICTS
from lightning_focal.parsing import CommandParser
from lightning_focal.rubrics import Criterion
from lightning_focal.terminal import Cells, make_console

__all__ = ["check_server", "judge_command", "parser"]

_CRITERIA = (
    Criterion("paris", "Names Paris as the capital of France."),
    Criterion("german", "Is written in German."),
    Criterion("clear", "How clear is it, from 1 (not at all) to 5 (fully)?", low=1, high=5),
)
_CHAT = ({"role": "user", "content": "What is the capital of France?"},)
_SAMPLE = JudgeRequest(_CHAT, "The capital of France is Paris.", _CRITERIA)
_EXPECTED = ("met", "not_met", "3 to 5")
_TRIES = 2  # of the dry run: it is to say soon what is wrong


def parser() -> ArgumentParser:
    """Return the parser of the dry run."""
    made = CommandParser(
        prog="lightning_focal judge",
        description="--check asks a judge's server, before training, for three verdicts on a sample: tests address, key, model and replies. "
        "--agreement FILE measures a judge against labelled responses; it has a --help of its own.",
    )
    made.add_argument("--check", action="store_true", help="Do the dry run.")
    made.add_argument("--config", type=str | None, default=None, help="Training configuration whose judges are checked.")
    made.add_argument("--url", type=str | None, default=None, help="Address of the server, in place of the configuration's.")
    made.add_argument("--model", type=str | None, default=None, help="The model, as the server calls it.")
    made.add_class_arguments(HTTPJudge, skip={"url", "model"})
    return made


def judge_command(args: list[str]) -> None:
    """Run the command; exit status 1 where a verdict could not be had."""
    if any(arg.split("=")[0] == "--agreement" for arg in args):
        return agreement_command(args)
    made = parser()
    config, defaults = made.parse_args(args), made.get_defaults()
    if not config.check:
        choices = "`--check` for a dry run of a server, `--agreement FILE` to measure a judge"
        raise ValueError(f"`judge` must be told what to do: {choices}")
    given = {k: v for k, v in config.items() if k not in ("check", "config") and v != defaults[k]}
    found: list[dict[str, Any]] = [{}]
    if config.config is not None:
        parts = walk_config(Path(config.config))
        found = [
            part.get("init_args") or {}
            for part in parts
            if str(part.get("class_path")).rsplit(".", 1)[-1] in ("HTTPJudge", "GroupJudge")
        ]
        found = [{k: v for k, v in of_judge.items() if k in defaults} for of_judge in found]  # the same server, whatever is asked
    if not found:
        raise ValueError(f"`--config` must name a configuration with an HTTPJudge, {config.config!r} has none")
    console, good = make_console(), True
    for settings in ({**of_judge, **given} for of_judge in found):
        if missing := [name for name in ("url", "model") if settings.get(name) is None]:
            raise ValueError(f"`--{missing[0]}` must be given, or `--config FILE` with a judge that has it")
        checked = made.parse_object(settings, defaults=False)  # types, as in a run
        arguments = {k: v for k, v in checked.items() if k not in ("check", "config")}
        tries = given.get("attempts", min(arguments.get("attempts", _TRIES), _TRIES))
        good = check_server(HTTPJudge(**{**arguments, "cache": None, "attempts": tries}), console) and good
    if not good:
        raise SystemExit(1)
    return None


def check_server(judge: HTTPJudge, console: Console) -> bool:
    """Ask for verdicts on a sample, show what came and say whether all did; ``ChatUnusable`` where none can."""
    offered = judge.offered()
    names = ", ".join(offered[:10]) or "it has no list of its models"
    unknown = ", which is not in the server's list" if offered and judge.model not in offered else ""
    console.print(f"server   {judge.url} answers ({names})", soft_wrap=True)
    console.print("key      " + (f"${judge.key_env} is accepted" if judge.key_env else "none is given, none is wanted"))
    console.print(f"model    {judge.model}{unknown}", soft_wrap=True)
    console.print(f"asking for {len(_SAMPLE.criteria)} verdicts, for at most {judge.longest_s:.0f} s ...")
    (verdicts,) = judge.judge([_SAMPLE])
    table = Cells("criterion", "expected", "verdict", Column("reason", overflow="fold"))
    for criterion, expected, verdict in zip(_SAMPLE.criteria, _EXPECTED, verdicts, strict=True):
        said = verdict.outcome.value if verdict.value is None else f"{verdict.value:g}"
        table.add_row(criterion.description, expected, said, verdict.reason)
    console.print(table)
    took = judge.measures()
    console.print(
        f"took     {took['requests']:.0f} requests, {took['retries']:.0f} of them repeated, {took['latency_s']:.2f} s a reply, "
        f"{took['prompt_tokens']:.0f} tokens read and {took['completion_tokens']:.0f} written"
    )
    if judge.schema_refused:
        console.print("replies  the server does not hold them to a schema; the prompt alone asks for JSON (`structured: false`)")
    failed = [verdict.reason for verdict in verdicts if verdict.outcome is Outcome.ERROR]
    if not failed:
        as_expected = (verdicts[0].outcome.value, verdicts[1].outcome.value) == _EXPECTED[:2]
        other = "verdicts come, but not those expected: measure the judge with --agreement before you train on it"
        console.print("good" if as_expected else other)
        return True
    if any(CUT_OFF in reason for reason in failed):
        console.print("replies  are cut off by the limit of tokens: raise `body.max_tokens`", soft_wrap=True)
    elif any(NO_VERDICTS in reason for reason in failed) and judge.structured and not judge.schema_refused:
        said = "replies  are no JSON although a schema was sent: the server takes no notice of `response_format`"
        console.print(said, soft_wrap=True)
    console.print("failed: not every criterion was judged; in training each of these would be masked")
    return False
