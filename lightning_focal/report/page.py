"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import lightning_focal
from lightning_focal.files import write_text
from lightning_focal.report.contents import all_figures
from lightning_focal.report.figures import Views
from lightning_focal.report.levels import run_levels
from lightning_focal.report.methods import Method, group_runs
from lightning_focal.report.pack import deflated, pack_rollouts, packed_json
from lightning_focal.report.plotly_draw import plotly_spec
from lightning_focal.report.rollouts import evenly
from lightning_focal.report.run import Run, read_run
from lightning_focal.report.tables import criterion_table, method_table, repeats, tiles
from lightning_focal.report.verdict import verdict

__all__ = ["ROLLOUTS", "Written", "write_report"]

ROLLOUTS = 6400
"""Training rollouts that a report shows by default, over all its runs."""

_SCRIPTS = ("data.js", "figures.js", "rollouts.js", "tables.js", "page.js")


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Args:
        path: of the file.
        size: in bytes.
        verdict: its two sentences.
        notes: what could not be read or was left out.
    """

    path: Path
    size: int
    verdict: tuple[str, str]
    notes: tuple[str, ...]


def write_report(
    folders: Sequence[str | Path], out: str | Path | None = None, rollouts: int = ROLLOUTS, limit: float = 6e6
) -> Written:
    """Write the report of some runs.

    Args:
        folders: run folders; runs whose configurations differ in seeds alone are one method.
        out: file; ``report.html`` in the first folder by default.
        rollouts: training rollouts to show, over all runs; whole batches, evenly spread, the first and the last among them.
        limit: bytes that the file should stay below; rollouts are left out until it does, and the page says so.

    Raises:
        ValueError: on a folder that is no run folder, or a negative number of rollouts.
    """
    if rollouts < 0:
        raise ValueError(f"`rollouts` must be >= 0, got {rollouts}")
    unique = list(dict.fromkeys(Path(folder) for folder in folders))
    if not unique:
        raise ValueError("`runs` must name at least one run folder, got none")
    methods = group_runs([read_run(folder, max(1, rollouts // len(unique)) if rollouts else 0) for folder in unique])
    text, notes = _page(methods, limit)
    path = Path(out) if out is not None else unique[0] / "report.html"
    write_text(path, text)
    return Written(path, path.stat().st_size, verdict(methods), notes)


def _page(methods: Sequence[Method], limit: float) -> tuple[str, tuple[str, ...]]:
    runs = [(method.title(run), run) for method in methods for run in method.runs]
    levels = {run.folder: run_levels(run) for _, run in runs}
    figures = all_figures(methods, levels)
    drawn = packed_json({views.name: _drawn(views) for views in figures})
    notes = [f"{title}: {note}" if len(runs) > 1 else note for title, run in runs for note in run.notes]
    fixed = _library()
    packed, shown, note = _rollouts(runs, limit - len(fixed) - len(drawn) - 250_000)
    notes += [note] if note else []
    single = methods[0] if len(methods) == 1 else None
    payload = {"library": fixed, "figures": drawn, "rollouts": packed}
    text = _rendered(
        title=single.label if single else f"{len(methods)} methods, {len(runs)} runs",
        names=", ".join(run.name for _, run in runs[:6]) + (", ..." if len(runs) > 6 else ""),
        verdict=verdict(methods),
        tiles=tiles(single) if single else [],
        methods=method_table(methods) if len(runs) > 1 else None,
        criteria=criterion_table(methods, levels),
        figures=figures,
        rollouts=shown,
        repeats=repeats(methods),
        notes=notes,
        payload=payload,
        nonce=hashlib.sha256("".join(payload.values()).encode()).hexdigest()[:32],
        version=lightning_focal.__version__,
    )
    return text.encode("utf-8", "replace").decode("utf-8"), tuple(notes)


def _drawn(views: Views) -> dict[str, Any]:
    return {"choices": views.choices, "views": [{"choice": list(choice), **plotly_spec(f)} for choice, f in views.views.items()]}


def _rollouts(runs: Sequence[tuple[str, Run]], room: float) -> tuple[str, int, str]:
    """Pack as many rollouts as there is room for; also their number and, where some are missing, a note."""
    read = {title: _by_batch(run) for title, run in runs}
    total, share = sum(run.train.total + run.held_out.total for _, run in runs), 1.0
    while True:
        chosen = [(title, _kept(run, read[title], share)) for title, run in runs]
        shown = sum(len(rows) for _, rows in chosen)
        packed = packed_json(pack_rollouts(chosen)) if shown else ""
        if len(packed) <= room or share < 0.01 or not shown:
            break
        share *= min(0.9, 0.95 * room / len(packed)) if room > 0 else 0.5
    which = "whole batches, evenly spread over the run, and of the first and the last evaluation of the held-out prompts"
    return packed, shown, f"{shown} of {total} recorded rollouts are in this file: {which}." if shown < total else ""


def _by_batch(run: Run) -> Mapping[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in run.train.rows:
        found.setdefault(row["batch"], []).append(row)
    return found


def _kept(run: Run, by_batch: Mapping[int, list[Mapping[str, Any]]], share: float) -> list[Mapping[str, Any]]:
    batches = evenly(list(by_batch), max(2, int(share * len(by_batch))))
    prompts = sorted({row["prompt_id"] for row in run.held_out.rows})
    some = set(prompts if share == 1 else prompts[: max(1, int(share * len(prompts)))])
    return [*(row for batch in batches for row in by_batch[batch]), *(r for r in run.held_out.rows if r["prompt_id"] in some)]


def _rendered(**values: Any) -> str:
    from jinja2 import Environment
    from markupsafe import Markup

    parts = {name: Markup(_resource(name)) for name in ("page.css", *_SCRIPTS)}
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_resource("page.html"))
    return str(template.render(style=parts["page.css"], scripts=[parts[name] for name in _SCRIPTS], **values))


@functools.cache
def _library() -> str:
    return deflated(_resource("plotly-basic.min.js"))


def _resource(name: str) -> str:
    return (resources.files("lightning_focal.report") / "page" / name).read_text(encoding="utf-8")
