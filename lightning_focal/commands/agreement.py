"""``lightning_focal judge --agreement``: a judge against verdicts of a person or a stronger judge."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_focal.files import write_json
from lightning_focal.functional.agreement import cohen_kappa, confusion_matrix
from lightning_focal.judges import Judge, JudgeRequest, Outcome, RuleJudge, Verdict
from lightning_focal.keys import log_key
from lightning_focal.parsing import CommandParser
from lightning_focal.rubrics import Criterion, RubricError, RubricRow, pool_untagged, read_rows
from lightning_focal.terminal import Cells, make_console

__all__ = ["GoldCase", "agreement_command", "measure_agreement", "parser", "read_gold"]

_EXPECTED = "true, false, 'met', 'not_met', a grade, or null (not labelled)"
_WORDS = {"met": True, "not_met": False, "not_applicable": None}


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog="lightning_focal judge",
        description="Measure a judge against labelled responses: accuracy, Cohen's kappa, confusion by criterion, share of errors, "
        "and how steady it is when asked again.",
    )
    made.add_argument("--config", type=str | None, default=None, help="Training configuration whose judge is measured.")
    gold = "Labelled responses, in any rubric format; rows also hold `response` and `verdicts`."
    made.add_argument("--agreement", type=str, required=True, help=gold)
    made.add_subclass_arguments(Judge, "judge", as_group=False, required=False, help="The judge to measure.")
    made.add_argument("--repeats", type=int, default=1, help="How often each response is judged; 2 or more measure consistency.")
    made.add_argument("--limit", type=int | None, default=None, help="Only the first so many responses.")
    made.add_argument("--json", type=str | None, default=None, help="File to write the figures to.")
    return made


def agreement_command(args: list[str]) -> None:
    """Run the command: ``ValueError`` on no judge or two, a malformed file, or a criterion that the judge cannot judge."""
    made = parser()
    config = made.parse_args(args)
    for name in ("repeats", "limit"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(f"`{name}` must be >= 1, got {config[name]}")
    if (config.judge is None) == (config.config is None):
        raise ValueError("`--judge` must be given, or `--config` with one, but not both")
    if config.judge is None:
        given = (part["judge"] for part in walk_config(Path(config.config)) if "judge" in part)
        named = (dict(judge) for judge in given if isinstance(judge, Mapping) and "class_path" in judge)
        by_rule = {"class_path": f"{RuleJudge.__module__}.{RuleJudge.__qualname__}"}
        config = made.parse_object({"judge": next(named, by_rule)}, cfg_base=config)
    judge = made.instantiate_classes(config).judge
    cases = read_gold(config.agreement)[: config.limit]
    for criterion in (criterion for case in cases for criterion in case.request.criteria):
        judge.validate(criterion)
    spelt = json.loads(made.dump(config, format="json"))["judge"]
    figures = {"gold": config.agreement, "judge": spelt, **measure_agreement(judge, cases, config.repeats)}
    console = make_console()
    _show(console, figures)
    if config.json is not None:
        write_json(Path(config.json), figures)
        console.print(f"written to {config.json}")


def walk_config(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a configuration, outer ones first, and those of the files it names."""
    if not path.is_file():
        raise FileNotFoundError(f"`--config` must be an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    waiting = [yaml.safe_load(path.read_text(encoding="utf-8"))]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and part.endswith(".yaml") and (path.parent / part).is_file():
            waiting.append(yaml.safe_load((path.parent / part).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class GoldCase:
    """One response with its labelled criteria; ``met`` says how far each is met, in [0, 1], for a fault 1 = the fault is there.

    ``id`` is that of the row, with the number of the response where it has several.
    """

    id: str
    request: JudgeRequest
    met: tuple[float, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Under which name each criterion is counted, see :func:`~lightning_focal.types.log_key`."""
        return tuple(log_key(criterion.name, criterion.tags) for criterion in self.request.criteria)


def read_gold(path: str | Path) -> list[GoldCase]:
    """Read labelled responses.

    A row is one of any rubric format, and besides holds ``response`` and ``verdicts``, or ``responses``, a list of mappings of the
    two. Verdicts are a list in the order of the criteria, or a mapping by criterion name; each is true or ``"met"``, false or
    ``"not_met"``, a grade between the criterion's ``low`` and ``high``, or null where the criterion was not labelled. As with
    rubrics, true on a fault means that the fault is there.

    Raises:
        RubricError: on a malformed row or label, naming file, line and field; or where nothing at all is labelled.
    """
    cases = [case for row in pool_untagged(read_rows(path)) for case in _cases(row)]
    if not cases:
        raise RubricError(str(path), "verdicts", "given for at least one criterion", None)
    return cases


def _cases(row: RubricRow) -> Iterator[GoldCase]:
    where, several = row.rubric.where, "responses" in row.extra
    given = row.extra["responses"] if several else [row.extra]
    if not isinstance(given, list) or not all(isinstance(entry, Mapping) for entry in given):
        raise RubricError(where, "responses", "a list of mappings with `response` and `verdicts`", given)
    for i, entry in enumerate(given):
        label, response = f"responses[{i}]." if several else "", entry.get("response")
        if not isinstance(response, str):
            raise RubricError(where, f"{label}response", "a string", response)
        known = [
            (criterion, met)
            for criterion, value in zip(row.rubric.criteria, _verdicts(row, entry.get("verdicts"), label), strict=True)
            if (met := _met(criterion, value, where, f"{label}verdicts[{criterion.name!r}]")) is not None
        ]
        if known:
            criteria, mets = zip(*known, strict=True)
            yield GoldCase(f"{row.id}#{i}" if several else row.id, JudgeRequest(row.messages, response, criteria), mets)


def _verdicts(row: RubricRow, given: Any, label: str) -> list[Any]:
    """One verdict a criterion, as they were written."""
    names, where = row.rubric.names, row.rubric.where
    if isinstance(given, Mapping):
        if unknown := sorted(set(given) - set(names)):
            raise RubricError(where, f"{label}verdicts", f"by the names {', '.join(names)}", unknown[0])
        return [given.get(name) for name in names]
    if isinstance(given, list) and len(given) == len(names):
        return given
    expected = f"a list of one verdict per criterion ({len(names)}), or a mapping by name"
    raise RubricError(where, f"{label}verdicts", expected, given)


def _met(criterion: Criterion, value: Any, where: str, label: str) -> float | None:
    value = _WORDS.get(value, value) if isinstance(value, str) else value
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not criterion.low <= value <= criterion.high:
        raise RubricError(where, label, f"{_EXPECTED} from {criterion.low:g} to {criterion.high:g}", value)
    return Verdict(Outcome.GRADED, float(value)).met(criterion)


class _Judged(NamedTuple):
    """One criterion of one response: its name, the gold verdict, the judge's, and how far that says the criterion is met."""

    key: str
    gold: float
    outcome: Outcome
    met: float | None


def measure_agreement(judge: Judge, cases: Sequence[GoldCase], repeats: int = 1) -> dict[str, Any]:
    """Measure how far a judge agrees with gold verdicts.

    Met means at least half way from ``low`` to ``high``, for the judge and for the gold verdict. Errors and "not applicable" are
    left out of every figure of agreement and counted beside it: a judge that fails is not wrong. All repeats count alike.

    Args:
        judge: asked once a repeat about all cases; one that remembers its verdicts judges each repeat by itself.
        cases: see :func:`read_gold`.
        repeats: how often, >= 1.

    Returns:
        ``responses``, ``labels`` (criteria labelled), ``repeats``; the figures of agreement over all and, under ``criteria``, for each
        criterion: ``judged``, ``errors``, ``not_applicable``, ``error_share``, ``accuracy``, ``kappa``, ``mean_difference`` (of how far a
        criterion is met, in [0, 1]) and ``confusion`` (gold, then judge). ``consistency`` is the share of pairs of repeats with the same
        verdict, ``unanimous`` that of criteria on which all repeats agree; None for one repeat. A figure about nothing is None.
    """
    rounds = [
        [
            _Judged(key, gold, verdict.outcome, verdict.met(criterion))
            for case, verdicts in zip(cases, judge.judge([replace(case.request, repeat=number) for case in cases]), strict=True)
            for key, gold, criterion, verdict in zip(case.keys, case.met, case.request.criteria, verdicts, strict=True)
        ]
        for number in range(repeats)
    ]
    judged = [entry for entries in rounds for entry in entries]
    said = [[entry.met >= 0.5 for entry in entries if entry.met is not None] for entries in zip(*rounds, strict=True)]
    again = [repeated for repeated in said if len(repeated) > 1]
    return {
        "responses": len(cases),
        "labels": len(rounds[0]),
        "repeats": repeats,
        **_figures(judged),
        "consistency": _share([a == b for repeated in again for a, b in combinations(repeated, 2)]),
        "unanimous": _share([len(set(repeated)) == 1 for repeated in again]),
        "criteria": {name: _figures([e for e in judged if e.key == name]) for name in sorted({e.key for e in judged})},
    }


def _figures(entries: Sequence[_Judged]) -> dict[str, Any]:
    known = [(entry.gold, entry.met) for entry in entries if entry.met is not None]
    gold, met = torch.tensor(known, dtype=torch.float64).reshape(-1, 2).unbind(1)
    confusion = confusion_matrix((gold >= 0.5).long(), (met >= 0.5).long(), 2)
    kappa, outcomes = cohen_kappa(confusion), Counter(entry.outcome for entry in entries)
    (no_no, no_yes), (yes_no, yes_yes) = confusion.tolist()
    return {
        "judged": len(known),
        "errors": outcomes[Outcome.ERROR],
        "not_applicable": outcomes[Outcome.NOT_APPLICABLE],
        "error_share": outcomes[Outcome.ERROR] / len(entries) if entries else None,
        "accuracy": (no_no + yes_yes) / len(known) if known else None,
        "kappa": None if math.isnan(kappa) else kappa,
        "mean_difference": float((gold - met).abs().mean()) if known else None,
        "confusion": {"met": {"met": yes_yes, "not_met": yes_no}, "not_met": {"met": no_yes, "not_met": no_no}},
    }


def _share(held: Sequence[bool]) -> float | None:
    return sum(held) / len(held) if held else None


def _show(console: Console, figures: dict[str, Any]) -> None:
    table = Cells(title=f"{figures['labels']} verdicts on {figures['responses']} responses", title_justify="left")
    table.add_column("criterion")
    for name in ("judged", "errors", "n/a", "accuracy", "kappa", "right of met", "right of not met"):
        table.add_column(name, justify="right")
    for name, row in {**figures["criteria"], "all": figures}.items():
        counts = [str(row[count]) for count in ("judged", "errors", "not_applicable")]
        right = [f"{said[gold]} of {sum(said.values())}" for gold, said in row["confusion"].items()]
        table.add_row(name, *counts, _shown(row["accuracy"]), _shown(row["kappa"]), *right)
    console.print(table)
    if figures["repeats"] > 1:
        agree = f"{_shown(figures['consistency'])} of the pairs of verdicts agree, on {_shown(figures['unanimous'])} of the criteria all do"
        console.print(f"Asked {figures['repeats']} times: {agree}.")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
