"""Verdicts out of a judge's reply: strictly, so that nothing is guessed and nothing is taken from the response under judgement."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.http.prompting import Form, is_graded
from lightning_focal.rubrics.criterion import Criterion
from lightning_focal.servers.replies import shortened
from lightning_focal.thoughts import answer_places

__all__ = ["CUT_OFF", "NO_VERDICTS", "RESPONSE_FORMAT", "read_verdicts"]

_KEYS = ("id", "verdict", "value", "reason")
_PLAIN = {"met": Outcome.MET, "not_met": Outcome.NOT_MET, "not_applicable": Outcome.NOT_APPLICABLE}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_VERDICT, _NUMBER, _TEXT = {"type": "string", "enum": [*_PLAIN, "graded"]}, {"type": ["number", "null"]}, {"type": "string"}
_ENTRY = _object({"id": _TEXT, "verdict": _VERDICT, "value": _NUMBER, "reason": _TEXT})
RESPONSE_FORMAT: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "verdicts", "strict": True, "schema": _object({"verdicts": {"type": "array", "items": _ENTRY}})},
}
"""``response_format`` of every request for verdicts: a server compiles one schema once."""

_START = re.compile(r'\{\s*"verdicts"\s*:')
_LONGEST = 1 << 20  # characters of a reply that are looked at
_MOST = 64  # objects in a reply that are looked at
CUT_OFF = "cut off by the limit of tokens"
"""In what is said of a reply that the server ended."""
NO_VERDICTS = "no verdicts"
"""In what is said of a reply that holds none."""


def read_verdicts(text: str, form: Form, cut_off: bool = False) -> tuple[dict[int, Verdict], str]:
    """Read the verdicts of a reply, by the criterion's place in ``form.criteria``, never ``ERROR``; and why some are missing.

    An object ``{"verdicts": [...]}`` counts if an entry names an id of ``form``; ids hold a nonce, so no part of the response under
    judgement can be such an entry. Text around it and a code fence do no harm. What stands in a thought
    (:mod:`lightning_focal.thoughts`) is a draft and no verdict, and a reply that was cut off (``cut_off``: at its limit, as the server says)
    holds none: it may be a thought whose marks stood in the prompt. Everything else is strict: keys in their order and none twice, ``reason``
    last, verdicts spelled as asked, values as numbers within the criterion's scale. So a response that a judge copies into a reason, quotes
    and all, cannot add a verdict or change one.

    >>> form = Form("5f0c", (Criterion("kind", "Is kind."), Criterion("short", "Is short.")))
    >>> read_verdicts('{"verdicts": [{"id": "1-5f0c", "verdict": "met", "value": null, "reason": "Thanks."}]}', form)
    ({0: Verdict(outcome=<Outcome.MET: 'met'>, value=None, reason='Thanks.')}, 'no verdict for criterion 2')
    """
    if len(text) > _LONGEST:
        return {}, f"a reply of {len(text)} characters"
    if cut_off:
        return {}, f"{CUT_OFF}, before the verdicts were whole: {shortened(text, 100)}"
    ids = {id_: place for place, id_ in enumerate(form.ids)}
    found_lists, broken = _lists(text, ids)
    marked = text
    for start, stop, _ in found_lists:  # marks that a reason quotes are no marks
        marked = f"{marked[:start]}{'_' * (stop - start)}{marked[stop:]}"
    places, finished = answer_places(marked)
    lists = [entries for at, _, entries in found_lists if any(start <= at < stop for start, stop in places)]
    if not finished:
        return {}, f"{NO_VERDICTS} in the reply, whose thought does not end: {shortened(text, 100)}"
    if not lists:
        return {}, f"{broken or NO_VERDICTS} in the reply: {shortened(text, 100)}"
    if len(lists) > 1:
        return {}, f"{len(lists)} lists of verdicts in the reply"
    found: dict[int, Verdict] = {}
    faults: dict[int, str] = {}
    for entry in lists[0]:
        place = _place(entry, ids)
        if place is None:  # nobody asked for it
            continue
        if place in found or place in faults:
            found.pop(place, None)
            faults[place] = "more than one verdict"
            continue
        try:
            found[place] = _verdict(entry, form.criteria[place], form.partial)
        except (ValueError, OverflowError) as error:
            faults[place] = str(error)
    missing = [place for place in range(len(form.criteria)) if place not in found]
    said = "; ".join(f"{faults.get(place, 'no verdict')} for {form.said(place)}" for place in missing)
    return found, said if missing else ""


def _lists(text: str, ids: Mapping[str, int]) -> tuple[list[tuple[int, int, Sequence[Any]]], str]:
    """Every list of verdicts that names an id, where its object starts and ends, and what is wrong with the JSON if some is broken."""
    # not strict: a line break within a reason is a line break
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, strict=False)
    lists: list[tuple[int, int, Sequence[Any]]] = []
    broken, end = "", 0
    for number, start in enumerate(_START.finditer(text)):
        if number == _MOST:
            return [], f"more than {_MOST} lists of verdicts"
        if start.start() < end:  # inside the last one
            continue
        try:
            content, stop = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            broken = "broken JSON"
            continue
        entries = content["verdicts"]
        if not isinstance(entries, list) or all(_place(entry, ids) is None for entry in entries):
            continue
        end = stop
        if len(content) > 1:
            broken = "keys beside `verdicts`"
        else:
            lists.append((start.start(), stop, entries))
    return lists, broken


def _place(entry: Any, ids: Mapping[str, int]) -> int | None:
    id_ = entry.get("id") if isinstance(entry, dict) else None
    return ids.get(id_) if isinstance(id_, str) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands there twice")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _verdict(entry: Mapping[str, Any], criterion: Criterion, partial: bool) -> Verdict:
    """Read one entry; ``ValueError`` or ``OverflowError`` says what is wrong with it."""
    keys = list(entry)
    if keys != [key for key in _KEYS if key in entry]:
        raise ValueError(f"keys {keys[:6]} in place of {list(_KEYS)}")
    said, value, reason = entry.get("verdict"), entry.get("value"), entry.get("reason", "")
    if not isinstance(reason, str):
        raise ValueError(f"a reason of type {type(reason).__name__}")
    reason = shortened(reason, 500)
    if said == "graded" and (partial or is_graded(criterion)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"a value of type {type(value).__name__}")
        if not criterion.low <= value <= criterion.high:
            raise ValueError(f"a value outside {criterion.low:g} to {criterion.high:g}")
        return Verdict(Outcome.GRADED, float(value), reason)
    if not isinstance(said, str) or said not in _PLAIN:
        raise ValueError(f"a verdict {shortened(repr(said), 40)}")
    if is_graded(criterion) and said != "not_applicable":
        raise ValueError(f"{said!r} in place of a number")
    if value is not None:
        raise ValueError(f"a value beside {said!r}")
    return Verdict(_PLAIN[said], None, reason)
