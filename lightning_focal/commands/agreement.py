"""``lightning_focal judge --agreement``: a judge against verdicts of a person or a stronger judge."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from lightning_focal.commands.gold import GoldCase, read_gold
from lightning_focal.files import write_json
from lightning_focal.functional.agreement import cohen_kappa, confusion_matrix
from lightning_focal.judges import Judge, Outcome, RuleJudge, Verdict
from lightning_focal.parsing import HelpFormatter
from lightning_focal.terminal import make_console

__all__ = ["agreement_command", "judge_in", "measure_agreement", "parser"]

_Judged = tuple[str, float, Verdict, float | None]
"""Name it counts under, gold, verdict, and how far the verdict says the criterion is met."""


def parser() -> ArgumentParser:
    """Return the parser of the command."""
    made = ArgumentParser(
        formatter_class=HelpFormatter,
        prog="lightning_focal judge",
        description="Measure a judge against labelled responses: accuracy, Cohen's kappa, confusion by criterion, share of errors, "
        "and how steady it is when asked again.",
    )
    made.add_argument("--config", type=str | None, default=None, help="Training configuration whose judge is measured.")
    made.add_argument(
        "--agreement",
        type=str,
        required=True,
        help="Labelled responses, in any rubric format; rows also hold `response` and `verdicts`.",
    )
    made.add_subclass_arguments(Judge, "judge", as_group=False, required=False, help="The judge to measure.")
    made.add_argument("--repeats", type=int, default=1, help="How often each response is judged; 2 or more measure consistency.")
    made.add_argument("--limit", type=int | None, default=None, help="Only the first so many responses.")
    made.add_argument("--json", type=str | None, default=None, help="File to write the figures to.")
    return made


def agreement_command(args: list[str]) -> None:
    """Run the command; see :func:`parser` for its arguments.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: on no judge or two, a malformed file, a number out of range, or a criterion that the judge cannot judge.
    """
    made = parser()
    config = made.parse_args(args)
    for name in ("repeats", "limit"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(f"`{name}` must be >= 1, got {config[name]}")
    if (config.judge is None) == (config.config is None):
        raise ValueError("`--judge` must be given, or `--config` with one, but not both")
    if config.judge is None:
        config = made.parse_object({"judge": judge_in(Path(config.config))}, cfg_base=config)
    judge = made.instantiate_classes(config).judge
    cases = read_gold(config.agreement)[: config.limit]
    for case in cases:
        for criterion in case.request.criteria:
            judge.validate(criterion)
    figures = {
        "gold": config.agreement,
        "judge": json.loads(made.dump(config, format="json"))["judge"],
        **measure_agreement(judge, cases, config.repeats),
    }
    console = make_console()
    _show(console, figures)
    if config.json is not None:
        write_json(Path(config.json), figures)
        console.print(f"written to {config.json}")


def judge_in(path: Path) -> dict[str, Any]:
    """Find the judge of a configuration: the value of its first ``judge`` that names a class; rules where there is none.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`--config` must be an existing file, got {str(path)!r} (looked in {Path.cwd()})")
    waiting = [yaml.safe_load(path.read_text(encoding="utf-8"))]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, Mapping):
            judge = part.get("judge")
            if isinstance(judge, Mapping) and "class_path" in judge:
                return dict(judge)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return {"class_path": f"{RuleJudge.__module__}.{RuleJudge.__qualname__}"}


def measure_agreement(judge: Judge, cases: Sequence[GoldCase], repeats: int = 1) -> dict[str, Any]:
    """Measure how far a judge agrees with gold verdicts.

    Met means at least half way from ``low`` to ``high``, for the judge and for the gold verdict. Errors and "not applicable" are
    left out of every figure of agreement and counted beside it: a judge that fails is not wrong. All repeats count alike.

    Args:
        judge: asked once a repeat about all cases.
        cases: see :func:`~lightning_focal.commands.gold.read_gold`.
        repeats: how often, >= 1.

    Returns:
        ``responses``, ``labels`` (criteria labelled), ``repeats``; the figures of agreement over all and, under ``criteria``, for
        each criterion: ``judged``, ``errors``, ``not_applicable``, ``error_share``, ``accuracy``, ``kappa``, ``mean_difference`` (of
        how far a criterion is met, in [0, 1]) and ``confusion`` (gold, then judge). ``consistency`` is the share of pairs of
        repeats with the same verdict, ``unanimous`` that of criteria on which all repeats agree; None for one repeat. A figure
        about nothing is None.
    """
    requests = [case.request for case in cases]
    rounds: list[list[_Judged]] = []
    for _ in range(repeats):
        given = judge.judge(requests)
        rounds.append(
            [
                (key, gold, verdict, verdict.met(criterion))
                for case, row in zip(cases, given, strict=True)
                for key, gold, criterion, verdict in zip(case.keys, case.met, case.request.criteria, row, strict=True)
            ]
        )
    judged = [entry for entries in rounds for entry in entries]
    names = sorted({entry[0] for entry in judged})
    return {
        "responses": len(cases),
        "labels": len(rounds[0]),
        "repeats": repeats,
        **_figures(judged),
        **_steadiness(rounds),
        "criteria": {name: _figures([entry for entry in judged if entry[0] == name]) for name in names},
    }


def _figures(entries: Sequence[_Judged]) -> dict[str, Any]:
    pairs = [(gold, met) for _, gold, _, met in entries if met is not None]
    gold, met = (torch.tensor(values, dtype=torch.float64) for values in (tuple(zip(*pairs, strict=True)) or ((), ())))
    confusion = confusion_matrix((gold >= 0.5).long(), (met >= 0.5).long(), 2)
    outcomes = [verdict.outcome for _, _, verdict, _ in entries]
    kappa = cohen_kappa(confusion)
    (no_no, no_yes), (yes_no, yes_yes) = confusion.tolist()
    return {
        "judged": len(pairs),
        "errors": outcomes.count(Outcome.ERROR),
        "not_applicable": outcomes.count(Outcome.NOT_APPLICABLE),
        "error_share": outcomes.count(Outcome.ERROR) / len(outcomes) if outcomes else None,
        "accuracy": (no_no + yes_yes) / len(pairs) if pairs else None,
        "kappa": None if math.isnan(kappa) else kappa,
        "mean_difference": float((gold - met).abs().mean()) if pairs else None,
        "confusion": {"met": {"met": yes_yes, "not_met": yes_no}, "not_met": {"met": no_yes, "not_met": no_no}},
    }


def _steadiness(rounds: Sequence[Sequence[_Judged]]) -> dict[str, float | None]:
    alike = pairs = unanimous = judged = 0
    for repeats in zip(*rounds, strict=True):
        said = [met >= 0.5 for _, _, _, met in repeats if met is not None]
        if len(said) > 1:
            both = list(combinations(said, 2))
            alike, pairs = alike + sum(a == b for a, b in both), pairs + len(both)
            unanimous, judged = unanimous + (len(set(said)) == 1), judged + 1
    return {"consistency": alike / pairs if pairs else None, "unanimous": unanimous / judged if judged else None}


def _show(console: Console, figures: dict[str, Any]) -> None:
    table = Table(title=f"{figures['labels']} verdicts on {figures['responses']} responses", title_justify="left")
    table.add_column("criterion")
    for name in ("judged", "errors", "n/a", "accuracy", "kappa", "right of met", "right of not met"):
        table.add_column(name, justify="right")
    for name, row in {**figures["criteria"], "all": figures}.items():
        counts = [row["judged"], row["errors"], row["not_applicable"]]
        right = [f"{said[gold]} of {sum(said.values())}" for gold, said in row["confusion"].items()]
        table.add_row(name, *map(str, counts), _shown(row["accuracy"]), _shown(row["kappa"]), *right)
    console.print(table)
    if figures["repeats"] > 1:
        console.print(
            f"Asked {figures['repeats']} times: {_shown(figures['consistency'])} of the pairs of verdicts agree, "
            f"on {_shown(figures['unanimous'])} of the criteria all do."
        )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
