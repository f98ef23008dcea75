"""``lightning_focal rubrics``: what a rubric file holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from lightning_focal.files import write_json
from lightning_focal.judges import RuleJudge
from lightning_focal.judges.routing import is_rule
from lightning_focal.parsing import HelpFormatter
from lightning_focal.rubrics import Reading, RubricRow, read_all
from lightning_focal.rubrics.summary import summary_of
from lightning_focal.studies.given_responses import read_responses, score_responses
from lightning_focal.terminal import make_console

__all__ = ["find_problems", "parser", "rubrics_command"]


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        formatter_class=HelpFormatter,
        prog="lightning_focal rubrics",
        description="Show what a rubric file holds: format, rows, criteria, points, tags, kinds of check, and its problems. "
        "Exit status 1 where there are problems.",
    )
    add = made.add_argument
    add("file", type=str, help=".jsonl, .json or .parquet, a folder of the datasets library, or hf:owner/name[:config][@split].")
    add("--format", type=str | None, default=None, help="Name of the format; by default it is recognised by the fields.")
    add("--responses", type=str | None, default=None, help="JSON lines with `id` (of a row) and `response`, to score by rule.")
    add("--json", type=str | None, default=None, help="File to write everything to, problems and verdicts included.")
    add("--show", type=int, default=10, help="Most tags, kinds, problems and responses to show.")
    return made


def rubrics_command(args: list[str]) -> None:
    """Run the command; see :func:`parser` for its arguments.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: on a file that cannot be read at all, or whose format is unknown.
        SystemExit: with status 1 where there are problems.
    """
    config = parser().parse_args(args)
    if config.show < 0:
        raise ValueError(f"`show` must be >= 0, got {config.show}")
    reading = read_all(config.file, config.format)
    judge = RuleJudge()
    problems = find_problems(reading, judge)
    found: dict[str, Any] = {
        "file": config.file,
        "format": reading.format.name,
        "total_rows": reading.total,
        **(summary_of(reading.rows) if reading.rows else {}),
        "problems": problems,
    }
    responses: list[tuple[RubricRow, str]] = []
    if config.responses is not None:
        broken = {problem["where"] for problem in problems if problem["kind"] == "check"}
        sound = [row for row in reading.rows if not any(criterion.where in broken for criterion in row.rubric.criteria)]
        responses, unread = read_responses(config.responses, sound)
        problems += unread
    console = make_console()
    _show_summary(console, found, reading, config.show)
    if responses:
        found["scores"] = score_responses(judge, responses)
        _show_scores(console, found["scores"], config.show)
    elif config.responses is not None:
        console.print("No response could be scored.")
    _show_problems(console, problems, config.show)
    if config.json is not None:
        write_json(Path(config.json), found)
        console.print(f"written to {config.json}", markup=False)
    if problems:
        raise SystemExit(1)


def find_problems(reading: Reading, judge: RuleJudge) -> list[dict[str, str]]:
    """List what is wrong with a file: malformed rows, repeated ids and names, bad checks, criteria of no points.

    Args:
        reading: the file.
        judge: knows the checks.

    Returns:
        ``where`` (file, line, criterion), ``kind`` (``row``, ``check`` or ``points``) and ``message`` of each.
    """
    problems = [{"where": error.where, "kind": "row", "message": str(error)} for error in reading.problems]
    for row in reading.rows:
        for criterion in row.rubric.criteria:
            if is_rule(criterion):
                try:
                    judge.validate(criterion)
                except ValueError as error:
                    problems.append({"where": criterion.where, "kind": "check", "message": str(error)})
            if criterion.points == 0:
                message = f"{criterion.where}: criterion {criterion.name!r} has no points: it is judged and weighs nothing"
                problems.append({"where": criterion.where, "kind": "points", "message": message})
    return problems


def _show_scores(console: Console, scores: Mapping[str, Any], show: int) -> None:
    table = Table(title=f"{len(scores['responses'])} responses, judged by rule", title_justify="left")
    for name in ("response to", "score", "in its own terms", "judged", "missed"):
        table.add_column(name, overflow="fold")
    for entry in scores["responses"][:show]:
        verdicts: Mapping[str, Any] = entry["verdicts"]
        judged = {name: verdict["score"] for name, verdict in verdicts.items() if verdict["score"] is not None}
        missed = ", ".join(name for name, score in judged.items() if score < 1)
        table.add_row(entry["id"], _number(entry["score"]), _number(entry["own_score"]), f"{len(judged)}/{len(verdicts)}", missed)
    table.add_section()
    table.add_row("all", _number(scores["score"]), _number(scores["own_score"]), "", "")
    console.print(table)
    if scores["by_tag"]:
        console.print("in its own terms, by tag: " + _listed(scores["by_tag"], show), markup=False)
    if scores["errors"]:
        console.print(f"{scores['errors']} checks failed: they count nowhere")


def _show_summary(console: Console, found: dict[str, Any], reading: Reading, show: int) -> None:
    table = Table(title=found["file"], title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("format", f"{reading.format.name}: {reading.format.fields}")
    table.add_row("its own score", reading.format.terms)
    bad = reading.total - len(reading.rows)
    table.add_row("rows", f"{len(reading.rows)}" + (f" good, {bad} malformed" if bad else ""))
    if reading.rows:
        each, points = found["criteria_per_row"], found["points"]
        table.add_row("criteria", f"{found['criteria']} ({found['distinct_criteria']} names), a row {_range(each)}")
        signs = f"{points['positive']} positive, {points['negative']} negative, {points['zero']} zero"
        table.add_row("points", f"{points['sum']:g} in all; {signs}; at best {_range(found['points_per_row'])} a row")
        table.add_row("tags", _listed(found["tags"], show) or "none")
        table.add_row("checks", _listed(found["checks"], show) or "none")
        without = found["without_check"]
        names = list(dict.fromkeys(c.name for row in reading.rows for c in row.rubric.criteria if c.check is None))
        told = f"{without} of {found['criteria']}: {', '.join(names[:show])}{', ...' if len(names) > show else ''}"
        table.add_row("need a model as judge", told if without else "none")
        for name, words in (("graded", "graded criteria"), ("required", "required criteria"), ("answers", "rows with an answer")):
            if found[name]:
                table.add_row(words, str(found[name]))
    table.add_row("problems", str(len(found["problems"])) if found["problems"] else "none")
    console.print(table)


def _show_problems(console: Console, problems: Sequence[Mapping[str, str]], show: int) -> None:
    for problem in problems[:show]:
        console.print(problem["message"], markup=False, soft_wrap=True)
    if len(problems) > show:
        console.print(f"and {len(problems) - show} more problems: --json writes all")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(spread: Mapping[str, float]) -> str:
    return f"{spread['min']:g} to {spread['max']:g}, {spread['mean']:.3g} on average"


def _listed(counts: Mapping[str, float], show: int) -> str:
    shown = ", ".join(
        f"{name} {count:.3g}" if isinstance(count, float) else f"{name} {count}" for name, count in [*counts.items()][:show]
    )
    return shown + (f", and {len(counts) - show} more" if len(counts) > show else "")
