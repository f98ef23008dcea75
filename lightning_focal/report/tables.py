"""The tables of a report, as rows of text."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_focal.report.comparisons import MEASURES, criteria_of, measures_of, score_of
from lightning_focal.report.figures import Point
from lightning_focal.report.held_out import Change
from lightning_focal.report.levels import Levels
from lightning_focal.report.methods import Method
from lightning_focal.report.run import Run

__all__ = ["Repeat", "Table", "Tile", "criterion_table", "method_table", "repeats", "tiles"]


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A number that stands out."""

    label: str
    value: str
    note: str = ""
    direction: int = 0


@dataclass(frozen=True)
class Repeat:
    """How to run something again."""

    title: str
    folder: str
    command: str
    typed: str
    facts: tuple[tuple[str, str], ...]
    config: str


def tiles(method: Method) -> list[Tile]:
    """The few numbers a person looks for first, of one method."""
    change, measures, found = score_of(method), measures_of(method), []
    if change is not None:
        found.append(
            Tile("held-out score", f"{change.after.value:.3f}", f"{_signed(change.difference)} since the start", change.direction)
        )
    first = {name: point for name, point in _first(method).items() if name in measures}
    for name, digits in (("worst criterion", 3), ("every criterion met", 3), ("response tokens", 1)):
        if name in measures:
            before = f"{first[name]:.{digits}f} before" if name in first else ""
            found.append(Tile(f"{name}, held out", f"{measures[name].value:.{digits}f}", before))
    rollouts = sum(run.train.total for run in method.runs)
    batches = "–".join(
        str(n) for n in sorted({run.batches for run in method.runs})[:: max(1, len({r.batches for r in method.runs}) - 1)]
    )
    found.append(Tile("rollout batches", batches, f"{rollouts:,} rollouts recorded".replace(",", " ") if rollouts else ""))
    return found


def _first(method: Method) -> dict[str, float]:
    found = {}
    for label, name in MEASURES.items():
        values = [run.evaluations[0].get("measures", {}).get(name) for run in method.runs if len(run.evaluations) > 1]
        known = [float(value) for value in values if value is not None]
        if known and len(known) == len(method.runs):
            found[label] = sum(known) / len(known)
    return found


def method_table(methods: Sequence[Method]) -> Table:
    """A row a method: held-out score before, after, difference, and measures after training, with intervals."""
    measures = [measures_of(method) for method in methods]
    names = list(dict.fromkeys(name for found in measures for name in found))
    rows = []
    for method, found in zip(methods, measures, strict=True):
        change = score_of(method)
        cells = ["-"] * 3 if change is None else [_plain(change.before), _plain(change.after), _signed(change.difference, "\n")]
        seeds = ", ".join("?" if seed is None else str(seed) for seed in method.seeds)
        rows.append((method.label, seeds, *cells, *(_plain(found[name]) if name in found else "-" for name in names)))
    head = ("method", "seeds", "before", "after", "after minus before", *names)
    return Table(
        head,
        tuple(rows),
        "Held-out prompts. 95 % intervals: Student's t over seeds, bootstrap over prompts where there is one seed.",
    )


def criterion_table(methods: Sequence[Method], levels: Mapping[Path, Mapping[str, Levels]]) -> Table:
    """A row a criterion; of one run its levels in training as well, of several the held-out change under each method."""
    changes = [criteria_of(method) for method in methods]
    if len(methods) == 1 and len(methods[0].runs) == 1:
        run = methods[0].runs[0]
        return _run_table(run, levels.get(run.folder, {}).get("key"), changes[0])
    keys = sorted({key for found in changes for key in found})
    rows = [(key, *(_change(found[key]) if key in found else "-" for found in changes)) for key in keys]
    caption = "Held-out score before → after, and the difference with its 95 % interval."
    return Table(("criterion", *(method.label for method in methods)), tuple(rows), caption)


def _run_table(run: Run, levels: Levels | None, changes: Mapping[str, Change]) -> Table:
    tenth = max(1, run.batches // 10)
    rows = []
    for key in sorted({*changes, *(levels.labels if levels else ())}):
        cells = []
        for part in ("score", "saturation", "weight"):
            series = getattr(levels, part).get(key) if levels else None
            ends = [series.mean(0, tenth - 1), series.mean(run.batches - tenth, run.batches)] if series else []
            known = [f"{value:.3f}" if value == value else "?" for value in ends]
            cells.append(" → ".join(known) if known else "-")
        rows.append((key, *cells, _shares(levels, key), _change(changes[key]) if key in changes else "-"))
    head = ("criterion", "score", "saturation", "weight", "share of the weight", "held-out score")
    what = "one batch" if tenth == 1 else f"{tenth} batches"
    return Table(
        head,
        tuple(rows),
        f"In training: first → last {what} (? = not asked for there). Share: prior → in force, whole run. "
        "Held out: before → after, difference.",
    )


def _shares(levels: Levels | None, key: str) -> str:
    """Share of all weight over the whole run, by the rubric's own weights and by those in force."""
    if levels is None or key not in levels.share:
        return "-"
    known = [part[key].values if key in part else [] for part in (levels.prior, levels.share)]
    return " → ".join(f"{sum(values) / len(values):.3f}" if values else "?" for values in known)


def repeats(methods: Sequence[Method]) -> list[Repeat]:
    """How to repeat each run: the command, what was typed, versions, seed, configuration."""
    return [_repeat(method.title(run), run) for method in methods for run in method.runs]


def _repeat(title: str, run: Run) -> Repeat:
    starts: list[Mapping[str, Any]] = list(run.record.get("starts", []))
    facts = [("seed", str(run.config.get("seed_everything", "not recorded")))]
    for name in ("version", "commit", "date", "device", "python", "torch", "lightning", "transformers"):
        values = list(dict.fromkeys(str(start[name]) for start in starts if start.get(name)))
        if values:
            facts.append((name, ", ".join(values)))
    if not starts:
        facts.append(("version and commit", "not recorded by this run"))
    elif run.finished is False:
        facts.append(("end", "the run did not come to its end"))
    if len(starts) > 1:
        facts.append(("starts", f"{len(starts)}: the run was resumed"))
    config = shlex.quote(str(run.folder / "config.yaml"))
    again = shlex.quote(str(run.folder.with_name(run.name + "-again")))
    command = f"lightning_focal fit --config {config} --run_dir {again}"
    return Repeat(
        title, str(run.folder), command, "\n".join(start.get("command", "") for start in starts), tuple(facts), run.config_text
    )


def _plain(point: Point) -> str:
    digits = 1 if abs(point.value) >= 10 else 3
    between = "" if point.low is None or point.high is None else f"\n[{point.low:.{digits}f}, {point.high:.{digits}f}]"
    return f"{point.value:.{digits}f}{between}"


def _signed(point: Point, gap: str = " ") -> str:
    between = "" if point.low is None or point.high is None else f"{gap}[{point.low:+.3f}, {point.high:+.3f}]"
    return f"{point.value:+.3f}{between}"


def _change(change: Change) -> str:
    return f"{change.before.value:.3f} → {change.after.value:.3f}\n{_signed(change.difference)}"
