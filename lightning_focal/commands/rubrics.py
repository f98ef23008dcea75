"""``lightning_focal rubrics``: what a rubric file holds, what is wrong with it, and what responses score under it by rule."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_focal.files import write_json
from lightning_focal.judges import Judge, JudgeRequest, Outcome, RuleJudge
from lightning_focal.judges.combine import is_rule
from lightning_focal.parsing import CommandParser
from lightning_focal.rubrics import FORMATS, Reading, RubricRow, read_all
from lightning_focal.terminal import Cells, make_console, shortened

__all__ = ["find_problems", "parser", "read_responses", "rubrics_command", "score_responses", "summary_of"]

_IDS = tuple(dict.fromkeys(("id", *(name for known in FORMATS.values() for name in known.id))))


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal rubrics",
        description="Show what a rubric file holds: format, rows, criteria, points, tags, kinds of check, and its problems. "
        "Exit status 1 where there are problems. --generate FILE writes rubrics for questions; it has a --help of its own.",
    )
    add = made.add_argument
    add("file", type=str, help=".jsonl, .json or .parquet, a folder of the datasets library, or hf:owner/name[:config][@split].")
    add("--format", type=str | None, default=None, help="Name of the format; by default it is recognised by the fields.")
    add("--responses", type=str | None, default=None, help="JSON lines with `id` (of a row) and `response`, to score by rule.")
    add("--json", type=str | None, default=None, help="File to write everything to, problems and verdicts included.")
    add("--show", type=int, default=10, help="Most tags, kinds, problems and responses to show.")
    return made


def rubrics_command(args: list[str]) -> None:
    """Run the command: ``FileNotFoundError`` or ``ValueError`` where a file cannot be read at all, exit status 1 on problems in it."""
    if any(arg.split("=")[0] == "--generate" for arg in args):
        from lightning_focal.commands.generate import generate_command  # needs what models need

        return generate_command(args)
    config = parser().parse_args(args)
    if config.show < 0:
        raise ValueError(f"`show` must be >= 0, got {config.show}")
    judge, console = RuleJudge(), make_console()
    try:
        reading = read_all(config.file, config.format)
    except FileNotFoundError as error:
        raise FileNotFoundError(str(error).replace("`path`", "`file`", 1)) from error
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
    _show_summary(console, found, reading, config.show)
    if responses:
        found["scores"] = score_responses(judge, responses)
        _show_scores(console, found["scores"], config.show)
    elif config.responses is not None:
        console.print("No response could be scored.")
    for problem in problems[: config.show]:
        console.print(problem["message"], soft_wrap=True)
    if len(problems) > config.show:
        console.print(f"and {len(problems) - config.show} more problems: --json writes all")
    if config.json is not None:
        write_json(Path(config.json), found)
        console.print(f"written to {config.json}")
    if problems:
        raise SystemExit(1)
    return None


def summary_of(rows: Sequence[RubricRow]) -> dict[str, Any]:
    """Count what rows, at least one, hold.

    ``criteria_per_row`` and ``points_per_row`` (of the positive ones) are ``min``, ``mean``, ``max``; ``distinct_criteria`` goes by name;
    ``graded`` are criteria of a range other than 0 to 1, ``on_thoughts`` those that look at the thought.
    """
    criteria = [criterion for row in rows for criterion in row.rubric.criteria]
    points = [criterion.points for criterion in criteria]
    return {
        "rows": len(rows),
        "criteria": len(criteria),
        "distinct_criteria": len({criterion.name for criterion in criteria}),
        "criteria_per_row": _spread([len(row.rubric) for row in rows]),
        "points_per_row": _spread([row.rubric.max_points for row in rows]),
        "points": {
            "sum": sum(points),
            "positive": sum(each > 0 for each in points),
            "negative": sum(each < 0 for each in points),
            "zero": points.count(0),
        },
        "tags": _counted(tag for criterion in criteria for tag in criterion.tags),
        "checks": _counted(str(criterion.check["kind"]) for criterion in criteria if criterion.check is not None),
        "without_check": sum(criterion.check is None for criterion in criteria),
        "graded": sum((criterion.low, criterion.high) != (0, 1) for criterion in criteria),
        "required": sum(criterion.required for criterion in criteria),
        "on_thoughts": sum(criterion.scope in ("thought", "both") for criterion in criteria),
        "answers": sum(row.answer is not None for row in rows),
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}


def find_problems(reading: Reading, judge: RuleJudge) -> list[dict[str, str]]:
    """List malformed rows, bad checks and criteria of no points: ``where``, ``kind`` (``row``, ``check``, ``points``) and ``message``."""
    problems = [{"where": error.where, "kind": "row", "message": str(error)} for error in reading.problems]
    for criterion in (criterion for row in reading.rows for criterion in row.rubric.criteria):
        if is_rule(criterion):
            try:
                judge.validate(criterion)
            except ValueError as error:
                problems.append({"where": criterion.where, "kind": "check", "message": str(error)})
        if criterion.points == 0:
            message = f"{criterion.where}: criterion {criterion.name!r} has no points: it is judged and weighs nothing"
            problems.append({"where": criterion.where, "kind": "points", "message": message})
    return problems


def read_responses(path: str | Path, rows: Sequence[RubricRow]) -> tuple[list[tuple[RubricRow, str]], list[dict[str, str]]]:
    """Read responses to the prompts of rubric rows, from JSON lines with ``response`` and ``id`` (or ``prompt_id``, ``key``, ...).

    Returns row and response in file order, and what is wrong with the other lines as :func:`find_problems`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`responses` must be an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    by_id = {row.id: row for row in rows}
    found, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(_response(line, by_id))
        except ValueError as error:
            where = f"{path}:{number}"
            problems.append({"where": where, "kind": "response", "message": f"{where}: {error}"})
    return found, problems


def _response(line: str, by_id: Mapping[str, RubricRow]) -> tuple[RubricRow, str]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"the line must be JSON ({error.msg} at column {error.colno}), got {line[:100]!r}") from None
    response = entry.get("response") if isinstance(entry, dict) else entry
    if not isinstance(response, str) or not isinstance(entry, dict):
        raise ValueError(f"`response` must be a string, got {response!r:.100}")
    name = next((key for key in _IDS if entry.get(key) is not None), "id")
    row = by_id.get(str(entry.get(name)))
    if row is None:
        raise ValueError(f"`{name}` must be the id of a good rubric row, got {entry.get(name)!r:.100}")
    return row, response


def score_responses(judge: Judge, responses: Sequence[tuple[RubricRow, str]]) -> dict[str, Any]:
    """Judge responses by the criteria that have a check, and score them.

    ``responses`` holds for each its ``verdicts`` by criterion, its ``score`` (the mean criterion score under the rubric's own weights, in
    [0, 1], a fault scoring ``1 - met``) and ``own_score`` (in the terms of its format), both over the judged criteria and None without any.
    Beside it stand the same of the whole file, ``by_tag`` the means of the own scores of each tag, and ``errors``, the checks that failed.
    """
    checked = [[criterion for criterion in row.rubric.criteria if criterion.check is not None] for row, _ in responses]
    requests = [
        JudgeRequest(row.messages, text, tuple(criteria)) for (row, text), criteria in zip(responses, checked, strict=True)
    ]
    entries: list[dict[str, Any]] = []
    tags: dict[str, list[float]] = {}
    for (row, _), criteria, judged in zip(responses, checked, judge.judge(requests), strict=True):
        none: dict[str, Any] = {"outcome": "not judged", "met": None, "score": None, "reason": ""}
        verdicts = {criterion.name: none for criterion in row.rubric.criteria}
        for criterion, verdict in zip(criteria, judged, strict=True):
            met = verdict.met(criterion)
            score = 1 - met if met is not None and criterion.is_fault else met
            verdicts[criterion.name] = {"outcome": verdict.outcome.value, "met": met, "score": score, "reason": verdict.reason}
        mets = [verdict["met"] for verdict in verdicts.values()]
        known = zip(row.rubric.prior_weights, (verdict["score"] for verdict in verdicts.values()), strict=True)
        weighted = [(weight, score) for weight, score in known if score is not None]
        total = sum(weight for weight, _ in weighted)
        entries.append(
            {
                "id": row.id,
                "score": sum(weight * score for weight, score in weighted) / total if total else None,
                "own_score": FORMATS[row.format].score(row.rubric, mets),
                "verdicts": verdicts,
            }
        )
        for tag, own in FORMATS[row.format].by_tag(row.rubric, mets).items():
            tags.setdefault(tag, []).append(own)
    scores, owns = ([entry[name] for entry in entries if entry[name] is not None] for name in ("score", "own_score"))
    return {
        "score": sum(scores) / len(scores) if scores else None,
        "own_score": FORMATS[responses[0][0].format].mean(owns),
        "by_tag": {tag: sum(of_tag) / len(of_tag) for tag, of_tag in sorted(tags.items())},
        "errors": sum(v["outcome"] == Outcome.ERROR for entry in entries for v in entry["verdicts"].values()),
        "responses": entries,
    }


def _show_scores(console: Console, scores: Mapping[str, Any], show: int) -> None:
    table = Cells(title=f"{len(scores['responses'])} responses, judged by rule", title_justify="left")
    for name in ("response to", "score", "in its own terms", "judged", "missed"):
        table.add_column(name, overflow="fold")
    for entry in scores["responses"][:show]:
        judged = {name: verdict["score"] for name, verdict in entry["verdicts"].items() if verdict["score"] is not None}
        missed = ", ".join(shortened(name) for name, score in judged.items() if score < 1)
        counts = f"{len(judged)}/{len(entry['verdicts'])}"
        table.add_row(shortened(entry["id"]), _number(entry["score"]), _number(entry["own_score"]), counts, missed)
    table.add_section()
    table.add_row("all", _number(scores["score"]), _number(scores["own_score"]), "", "")
    console.print(table)
    if scores["by_tag"]:
        console.print("in its own terms, by tag: " + _listed(scores["by_tag"], show))
    if scores["errors"]:
        console.print(f"{scores['errors']} checks failed: they count nowhere")


def _show_summary(console: Console, found: Mapping[str, Any], reading: Reading, show: int) -> None:
    table = Cells(title=found["file"], title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    bad = reading.total - len(reading.rows)
    rows = {
        "format": f"{reading.format.name}: {reading.format.fields}",
        "its own score": reading.format.terms,
        "rows": f"{len(reading.rows)}" + (f" good, {bad} malformed" if bad else ""),
    }
    if reading.rows:
        points, without = found["points"], found["without_check"]
        names = list(dict.fromkeys(c.name for row in reading.rows for c in row.rubric.criteria if c.check is None))
        listed = ", ".join(map(shortened, names[:show])) + (", ..." if len(names) > show else "")
        models = f"{without} of {found['criteria']}: {listed}"
        signs = f"{points['positive']} positive, {points['negative']} negative, {points['zero']} zero"
        rows |= {
            "criteria": f"{found['criteria']} ({found['distinct_criteria']} names), a row {_range(found['criteria_per_row'])}",
            "points": f"{points['sum']:g} in all; {signs}; at best {_range(found['points_per_row'])} a row",
            "tags": _listed(found["tags"], show) or "none",
            "checks": _listed(found["checks"], show) or "none",
            "need a model as judge": models if without else "none",
        }
        counted = {"graded": "graded criteria", "required": "required criteria", "on_thoughts": "criteria on thoughts"}
        counted["answers"] = "rows with an answer"
        rows |= {words: str(found[name]) for name, words in counted.items() if found[name]}
    for name, told in {**rows, "problems": str(len(found["problems"]) or "none")}.items():
        table.add_row(name, told)
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(spread: Mapping[str, float]) -> str:
    return f"{spread['min']:g} to {spread['max']:g}, {spread['mean']:.3g} on average"


def _listed(counts: Mapping[str, float], show: int) -> str:
    shown = ", ".join(
        f"{shortened(name)} {f'{count:.3g}' if isinstance(count, float) else count}" for name, count in [*counts.items()][:show]
    )
    return shown + (f", and {len(counts) - show} more" if len(counts) > show else "")
