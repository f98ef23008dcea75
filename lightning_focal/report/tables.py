"""The numbers of a report, as tables and tiles of text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_focal.report.figures import Point
from lightning_focal.report.held_out import Change, criteria_of, measures_of, score_of
from lightning_focal.report.levels import Levels
from lightning_focal.report.methods import Method, settings_of
from lightning_focal.report.run import Run

__all__ = ["Table", "criterion_table", "few_of", "markdown_table", "method_table", "repeats", "subject", "tiles"]


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


def subject(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What was trained: model, data and date of some runs; those that are not recorded are left out."""
    found: dict[str, dict[str, None]] = {"model": {}, "data": {}, "date": {}}
    for run in runs:
        of = dict(settings_of(run.config))
        data = of.get("data.init_args.train") or of.get("data.class_path")
        dates = [start.get("date") for start in run.record.get("starts", [])]
        for name, value in (
            ("model", of.get("model.policy")),
            ("data", data),
            ("date", str(dates[0])[:10] if any(dates) else None),
        ):
            if value:
                text = re.sub(r"[?&]seed=\*", "", str(value))
                found[name]["/".join(text.split("/")[-3:])] = None
    return [(name, few_of(list(values))) for name, values in found.items() if values]


def few_of(texts: Sequence[str]) -> str:
    """At most three texts as a list; of more the first two and a count."""
    return ", ".join(texts) if len(texts) <= 3 else f"{', '.join(texts[:2])} and {len(texts) - 2} more"


def tiles(method: Method) -> list[tuple[str, str, str, int]]:
    """The few numbers a person looks for first, of one method: label, value, note and direction of each."""
    found, change, after = [], score_of(method), measures_of(method)
    before = measures_of(method, 0) if all(len(run.evaluations) > 1 for run in method.runs) else {}
    if change:
        note = f"{change.difference:+z.3f} since the start"
        found.append(
            ("held-out score", f"{change.after.value:.3f}", note, {"improved": 1, "declined": -1}.get(change.verdict, 0))
        )
    for name, digits in (("worst criterion", 3), ("every criterion met", 3), ("response tokens", 1)):
        if name in after:
            note = f"{before[name].value:.{digits}f} before" if name in before else ""
            found.append((f"{name}, held out", f"{after[name].value:.{digits}f}", note, 0))
    rollouts = sum(run.train.total for run in method.runs)
    ends = dict.fromkeys(str(end(run.batches for run in method.runs)) for end in (min, max))
    note = f"{rollouts:,} rollouts recorded".replace(",", " ") if rollouts else ""
    return [*found, ("rollout batches", "–".join(ends), note, 0)]


def method_table(methods: Sequence[Method]) -> Table:
    """A row a method: held-out score before, after, difference, and measures after training, with intervals."""
    measures = [measures_of(method) for method in methods]
    names = tuple(dict.fromkeys(name for found in measures for name in found))
    rows = []
    for method, found in zip(methods, measures, strict=True):
        change = score_of(method)
        cells = [_cell(change.before), _cell(change.after), _lines(f"{change.difference:+z.3f}")] if change else ["-"] * 3
        seeds = ", ".join("?" if seed is None else str(seed) for seed in method.seeds)
        rows.append((method.label, seeds, *cells, *(_cell(found[name]) if name in found else "-" for name in names)))
    head = ("method", "seeds", "score before", "score after", "change", *names)
    caption = (
        "Held-out prompts, under the rubric's own weights; measures right of the change are after training. 95 % intervals: Student's t "
        "over seeds, bootstrap over prompts where there is one seed; those of shares are cut to 0 and 1."
    )
    return Table(head, tuple(rows), caption)


def _cell(point: Point) -> str:
    return _lines(f"{point:.1f}" if abs(point.value) >= 10 else f"{point:.3f}")


def _lines(text: str) -> str:
    return text.replace(" [", "\n[")


def criterion_table(methods: Sequence[Method], levels: Mapping[Path, Mapping[str, Levels]]) -> Table:
    """A row a criterion; of one run its levels in training as well, of several the held-out change under each method."""
    changes = [criteria_of(method) for method in methods]
    if len(methods) == 1 and len(methods[0].runs) == 1:
        run = methods[0].runs[0]
        return _run_table(run, levels[run.folder].get("key", Levels()), changes[0])
    names = sorted({name for found in changes for name in found})
    rows = [(name, *(str(found[name]) if name in found else "-" for found in changes)) for name in names]
    caption = "Held-out prompts. The second line is the change, with its 95 % interval."
    return Table(("criterion", *(f"{method.label}\nbefore → after" for method in methods)), tuple(rows), caption)


def _run_table(run: Run, levels: Levels, changes: Mapping[str, Change]) -> Table:
    rows = []
    for key in sorted({*changes, *levels.labels}):
        parts = [getattr(levels, part).get(key) for part in ("score", "saturation", "weight")]
        cells = [_arrow(series.ends(run.batches)) if series else "-" for series in parts]
        over_all = [
            sum(part[key].values) / len(part[key].values) if key in part else None for part in (levels.prior, levels.share)
        ]
        share = _arrow(over_all) if key in levels.share else "-"
        rows.append((key, *cells, share, str(changes[key]) if key in changes else "-"))
    tenth = max(1, run.batches // 10)
    ends = "first → last batch" if tenth == 1 else f"first → last {tenth} batches"
    trained = (f"{part} in training\n{ends}" for part in ("score", "saturation", "weight"))
    head = ("criterion", *trained, "share of the weight\nof the rubric → in training", "held-out score\nbefore → after")
    caption = (
        "A criterion that no prompt asks for in those batches has a ?. The share of the weight is over the whole run: what the rubric gives, "
        "and what the strategy gave. The second line of the held-out score is the change, with its 95 % interval."
    )
    return Table(head, tuple(rows), caption)


def _arrow(ends: Sequence[float | None]) -> str:
    return " → ".join("?" if end is None or end != end else f"{end:.3f}" for end in ends)


def repeats(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """How to repeat each run: ``title``, ``folder``, ``command``, what was ``typed``, ``facts`` and the text of its ``config``."""
    return [_repeat(title, run) for method in methods for title, run in method.titles]


def _repeat(title: str, run: Run) -> dict[str, Any]:
    starts: list[Mapping[str, Any]] = list(run.record.get("starts", []))
    facts = {"seed": str(run.config.get("seed_everything", "not recorded"))}
    for name in ("version", "commit", "date", "device", "python", "torch", "lightning", "transformers"):
        if values := dict.fromkeys(str(start[name]) for start in starts if start.get(name)):
            facts[name] = ", ".join(values)
    if not starts:
        facts["version and commit"] = "not recorded by this run"
    elif run.finished is False:
        facts["end"] = "the run did not come to its end"
    if len(starts) > 1:
        facts["starts"] = f"{len(starts)}: the run was resumed"
    config, again = (shlex.quote(str(path)) for path in (run.folder / "config.yaml", run.folder.with_name(f"{run.name}-again")))
    return {
        "title": title,
        "folder": str(run.folder),
        "command": f"lightning_focal fit --config {config} --run_dir {again}",
        "typed": "\n".join(start.get("command", "") for start in starts),
        "facts": facts,
        "config": run.config_text,
    }


def with_backslashes(cell: str) -> str:
    """Mark what Markdown would read as markup."""
    return re.sub(r"([\\`*\[<|])", r"\\\1", cell)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]], escape: Callable[[str], str] = with_backslashes) -> str:
    r"""Return a Markdown table whose cells are shown as they are.

    >>> print(markdown_table(["a", "b"], [["1", "2|3"]]), end="")
    | a | b |
    | --- | --- |
    | 1 | 2\|3 |
    """
    lines = [[escape(" ".join(str(cell).split())) for cell in row] for row in (head, *rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in [lines[0], ["---"] * len(head), *lines[1:]])
