"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import lightning_focal
from lightning_focal.files import write_text
from lightning_focal.intervals import parted
from lightning_focal.keys import log_key
from lightning_focal.report.contents import all_figures, shows
from lightning_focal.report.figures import GREY, PALETTE, Views
from lightning_focal.report.levels import run_levels
from lightning_focal.report.methods import Method, group_runs
from lightning_focal.report.run import Run, evenly, read_run
from lightning_focal.report.tables import criterion_table, few_of, method_table, repeats, subject, tiles
from lightning_focal.report.verdict import verdict
from lightning_focal.thoughts import split_thought

__all__ = ["ROLLOUTS", "Written", "pack_rollouts", "packed", "write_report"]

ROLLOUTS = 6400
"""Training rollouts that a report shows by default, over all its runs."""

_SCRIPTS = ("data.js", "figures.js", "rollouts.js", "tables.js", "page.js")
_BESIDE = 250_000  # bytes of the file beside the library, the figures and the rollouts, at most


@dataclass(frozen=True)
class Written:
    """A report that was written: its size in bytes, what happened in sentences, and what could not be read or was left out."""

    path: Path
    size: int
    verdict: tuple[str, ...]
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
    from jinja2 import Environment
    from markupsafe import Markup

    runs = [titled for method in methods for titled in method.titles]
    levels = {run.folder: run_levels(run) for _, run in runs}
    figures = all_figures(methods, levels)
    payload = {
        "library": _library(),
        "figures": packed(
            {"palette": PALETTE, "grey": GREY, "shows": list(shows(methods)), "all": list(map(_view_list, figures))}
        ),
    }
    payload["rollouts"], shown, note = _rollouts(runs, limit - sum(map(len, payload.values())) - _BESIDE)
    warnings = [
        f"{title}: {fault}" if len(runs) > 1 else fault
        for title, run in runs
        for fault in [*run.notes, *filter(None, [parted(run.evaluations, run.level)])]
    ]
    single = methods[0] if len(methods) == 1 else None
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_resource("page.html")).render(
        style=Markup(_resource("page.css")),
        scripts=[Markup(_resource(name)) for name in _SCRIPTS],
        title=" and ".join(method.label for method in methods) if len(methods) < 4 else f"{len(methods)} methods",
        subject=[*subject([run for _, run in runs]), ("runs" if len(runs) > 1 else "run", few_of([run.name for _, run in runs]))],
        shows=list(shows(methods)),
        verdict=verdict(methods),
        tiles=tiles(single) if single else [],
        methods=method_table(methods) if len(runs) > 1 else None,
        criteria=criterion_table(methods, levels),
        figures=figures,
        rollouts=shown,
        repeats=repeats(methods),
        notes=note,
        warnings=warnings,
        payload=payload,
        nonce=hashlib.sha256("".join(payload.values()).encode()).hexdigest()[:32],
        version=lightning_focal.__version__,
    )
    return text.encode("utf-8", "replace").decode("utf-8"), (*warnings, *note)


def _view_list(views: Views) -> dict[str, Any]:
    listed = [{"choice": choice, **dataclasses.asdict(figure)} for choice, figure in views.views.items()]
    return {"name": views.name, "choices": views.choices, "views": listed}


def _rollouts(runs: Sequence[tuple[str, Run]], room: float) -> tuple[str, int, list[str]]:
    """Pack as many rollouts as there is room for; also their number and, where some are missing, a note."""
    total, share = sum(run.train.total + run.held_out.total for _, run in runs), 1.0
    while True:
        chosen = [(title, _kept(run, share)) for title, run in runs]
        shown = sum(len(rows) for _, rows in chosen)
        text = packed(pack_rollouts(chosen)) if shown else ""
        if len(text) <= room or share < 0.01 or not shown:
            break
        share *= min(0.9, 0.95 * room / len(text)) if room > 0 else 0.5
    which = "whole batches, evenly spread over the run, and of the first and the last evaluation of the held-out prompts"
    return text, shown, [f"{shown} of {total} recorded rollouts are in this file: {which}."] if shown < total else []


def _kept(run: Run, share: float) -> list[Mapping[str, Any]]:
    """About this share of the training batches that were read, and of the held-out prompts."""
    batches = run.train.batches
    prompts = sorted({row["prompt_id"] for row in run.held_out.rows})
    kept, some = set(evenly(batches, int(share * len(batches)))), set(prompts[: max(1, int(share * len(prompts)))])
    return [row for row in run.train.rows if row["batch"] in kept] + [r for r in run.held_out.rows if r["prompt_id"] in some]


@functools.cache
def _library() -> str:
    return _deflated(_resource("plotly-basic.min.js"))


def _resource(name: str) -> str:
    return (resources.files("lightning_focal.report") / "page" / name).read_text(encoding="utf-8")


def packed(content: Any) -> str:
    """JSON, deflated and as base64, which no HTML parser minds and a browser undoes without a library.

    Numbers have five digits; those that are not finite become null. Half surrogates stay escaped.
    """
    return _deflated(json.dumps(_rounded(content), separators=(",", ":"), allow_nan=False))


def _deflated(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")


def _rounded(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.5g}") if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_rounded(value) for value in content]
    return content


def pack_rollouts(runs: Sequence[tuple[str, Iterable[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Return rollouts of several runs as columns, what recurs kept once.

    Returns:
        ``runs`` titles; ``prompts`` chats; ``rubrics`` criteria as ``[name, key, tags]``; ``reasons`` texts; ``groups`` as
        ``[run, stage, batch, prompt, rubric, weights, saturations, prior weights]``; and, one entry a rollout, ``group``,
        ``number``, ``text`` (the answer), ``thought`` (ending in … where it did not end; or None), ``said`` (``[role, text]`` of each
        turn; or None), ``reward``, ``static``, ``change`` (of rank), ``tokens``, ``cut``, ``outcome`` (a letter a criterion), ``score``
        (by criterion, where it is neither 0 nor 1), ``fault`` (places of faults that were found) and ``reason`` (a number a
        criterion, into ``reasons``).
    """
    tables: dict[str, dict[Any, int]] = {"prompts": {}, "rubrics": {}, "reasons": {}, "groups": {}}
    rollouts: list[dict[str, Any]] = []

    def place(table: str, value: Any) -> int:
        return tables[table].setdefault(value, len(tables[table]))

    for at, (_, rows) in enumerate(runs):
        for row in rows:
            criteria = row["criteria"]
            chat = tuple((message["role"] or "", message["content"] or "") for message in row["messages"] or ())
            rubric = tuple((c["name"], log_key(c["name"], c["tags"] or []), tuple(c["tags"] or ())) for c in criteria)
            per_prompt = (tuple(c[name] for c in criteria) for name in ("weight", "saturation", "prior_weight"))
            group = (at, row["stage"], row["batch"], place("prompts", chat), place("rubrics", rubric), *per_prompt)
            outcomes = [_outcome(c) for c in criteria]
            thought, answer = _parts(row)
            rollouts.append(
                {
                    "group": place("groups", group),
                    "number": row["rollout"],
                    "text": answer,
                    "thought": thought,
                    "said": _said(row),
                    "reward": row["reward"],
                    "static": row["static_reward"],
                    "change": row["rank_change"],
                    "tokens": row.get("tokens"),
                    "cut": int(bool(row.get("truncated"))),
                    "out": int(bool(row.get("rejected"))),
                    "outcome": "".join(outcomes),
                    "score": {i: c["score"] for i, c in enumerate(criteria) if outcomes[i] == "p"},
                    "fault": [i for i, c in enumerate(criteria) if c.get("outcome") == "met" and c["score"] == 0],
                    "reason": [place("reasons", c.get("reason") or "") for c in criteria],
                }
            )
    columns = {name: [rollout[name] for rollout in rollouts] for name in (rollouts[0] if rollouts else ())}
    return {"runs": [title for title, _ in runs], **{name: list(values) for name, values in tables.items()}, **columns}


def _parts(row: Mapping[str, Any]) -> tuple[str | None, str]:
    """Thought and answer of a recorded response; files of earlier versions do not say whether there is a thought."""
    response = row["response"] or ""
    if "thought" in row and row["thought"] is None:
        return None, response
    thought, answer, finished = split_thought(response)
    return (thought if finished else f"{thought} …"), answer


def _said(row: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Who said what, turn by turn; None where there was one turn. Files of earlier versions know no turns."""
    return [(m["role"], m["content"]) for m in json.loads(row["trajectory"])] if row.get("trajectory") else None


def _outcome(criterion: Mapping[str, Any]) -> str:
    """What became of a criterion: m = met, also of a fault that was not found, p = partly, n = not met, f = failed, - = not judged.

    >>> _outcome({"score": 1.0, "outcome": "not_met"}), _outcome({"score": None, "outcome": "error"})
    ('m', 'f')
    """
    score = criterion["score"]
    if score is None or not math.isfinite(score):
        return "f" if criterion.get("outcome") == "error" else "-"
    return "m" if score >= 1 else "p" if score > 0 else "n"
