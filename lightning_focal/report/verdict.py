"""What came out, in two sentences: what rose, what fell, and what an interval does not tell from 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_focal.report.held_out import Change, apart, criteria_of, measures_of, score_of
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import Series, keys
from lightning_focal.terminal import shortened

__all__ = ["verdict"]


def verdict(methods: Sequence[Method]) -> tuple[str, str]:
    """Return two sentences about the methods: one on the held-out score, one on its criteria or on the difference of two methods."""
    if len(methods) == 1:
        return _score_sentence(methods[0]), _criteria_sentence(methods[0])
    return _methods_sentence(methods), _apart_sentence(methods)


def _score_sentence(method: Method) -> str:
    ends = sorted({run.batches for run in method.runs})
    batches = f"{ends[0]} to {ends[-1]} batches" if len(ends) > 1 else f"{ends[0]} {'batch' if ends == [1] else 'batches'}"
    if change := score_of(method):
        kind, paired = "" if len(method.runs) > 1 else "bootstrap ", "paired " if "prompts" in change.units else ""
        return (
            f"The held-out score {_moved(change)} over {batches}, from {change.before.value:.3f} to {change.after.value:.3f}: "
            f"a {paired}difference of {change.difference:+.3f} (95 % {kind}over {change.units}), {_excludes(change)}."
        )
    reason = "There were no held-out prompts, so nothing can be said about prompts that were not trained on"
    if any(run.evaluations for run in method.runs):
        one = "The run has one evaluation of its held-out prompts alone"
        reason = f"{one if len(method.runs) == 1 else 'No run has two evaluations'}, so there is no before and after"
    course = _first_and_last(method, "train/reward/prior") or _first_and_last(method, "train/reward/static")
    if course is None:
        return f"{reason}."
    return (
        f"{reason}; in training, over {batches}, the static score went from {course[0]:.3f} to {course[1]:.3f} "
        "(means of the first and of the last tenth, on different prompts, without an interval)."
    )


def _first_and_last(method: Method, name: str) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of a training measure, over the runs that have both."""
    ends = [run.metrics.get(name, Series()).ends(run.batches) for run in method.runs]
    known = [pair for pair in ends if not math.isnan(sum(pair))]
    return (sum(first for first, _ in known) / len(known), sum(last for _, last in known) / len(known)) if known else None


def _criteria_sentence(method: Method) -> str:
    changes = criteria_of(method)
    if not changes:
        trained = keys(method.runs[0].metrics, "train/criterion/", "/score")
        ends = {key: _first_and_last(method, f"train/criterion/{key}/score") for key in trained}
        moved = {key: pair[1] - pair[0] for key, pair in ends.items() if pair}
        return f"Of {_count(moved)} {_extremes(moved)}; without an interval." if moved else "No criterion was judged."
    if len(changes) == 1:
        ((key, change),) = changes.items()
        return (
            f"Its single criterion, {_name(key)}, {_moved(change)}: {change.before.value:.2f} to {change.after.value:.2f}, "
            f"{change.difference:+.3f}, {_excludes(change)}."
        )
    if not all(change.difference.known for change in changes.values()):
        moved = {key: change.difference.value for key, change in changes.items()}
        return f"Of {_count(changes)} {_extremes(moved)} on held-out prompts; without rollouts, or a second seed, there is no interval."
    parts = [_listed(changes, 1, "rose"), _listed(changes, -1, "fell")]
    if unsure := sum(change.difference.direction == 0 for change in changes.values()):
        parts.append("the interval of 1 includes 0" if unsure == 1 else f"the intervals of {unsure} include 0")
    first, last = (min(changes, key=lambda k: changes[k].before.value), min(changes, key=lambda k: changes[k].after.value))
    before, after = changes[first].before.value, changes[last].after.value
    if first == last:
        lowest = f"the worst, {_name(first)}, went from {before:.2f} to {after:.2f}"
    else:
        lowest = f"the worst was {_name(first)} at {before:.2f} and is {_name(last)} at {after:.2f}"
    return f"Of {_count(changes)} {_enumerated(parts)}; {lowest}."


def _listed(changes: Mapping[str, Change], direction: int, word: str) -> str:
    moved = {key: change.difference.value for key, change in changes.items() if change.difference.direction == direction}
    kept = sorted(moved, key=lambda key: -abs(moved[key]))
    named = ", ".join(f"{_name(key)} {moved[key]:+.2f}" for key in kept[:3])
    return f"{len(kept)} {word} ({named}{', ...' if len(kept) > 3 else ''})" if kept else f"none {word}"


def _extremes(moved: Mapping[str, float]) -> str:
    parts = []
    for sign, words in ((1, "went up"), (-1, "went down")):
        there = [key for key in moved if sign * moved[key] > 0]
        first = min(there, key=lambda key: -abs(moved[key]), default="")
        parts.append(f"{len(there)} {words} (most: {_name(first)} {moved[first]:+.2f})" if there else f"none {words}")
    return _enumerated(parts)


def _methods_sentence(methods: Sequence[Method]) -> str:
    known = {method.label: change for method in methods if (change := score_of(method))}
    if not known:
        return "No run has held-out prompts before and after training, so the methods cannot be judged on prompts they were not trained on."
    parts = []
    for direction, words in ((1, "rose under"), (-1, "fell under"), (0, "cannot be said to have moved under")):
        moved = {label: change.difference for label, change in known.items() if change.difference.direction == direction}
        named = [f"{label} ({moved[label]:+.3f})" for label in sorted(moved, key=lambda label: -moved[label].value)]
        more = f" and {len(named) - 3} more" if len(named) > 4 else ""
        if named:
            parts.append(f"{words} {_enumerated([*named[:2], named[-1]] if more else named)}{more}")
    kinds = {change.units: "Student's t" if "seeds" in change.units else "bootstrap" for change in known.values()}
    units = [f"{unit} by {kind}" for unit, kind in kinds.items()]
    without = f"; {len(methods) - len(known)} without two evaluations" if len(known) < len(methods) else ""
    return f"The held-out score {'; it '.join(parts)} (95 %, over {' or '.join(sorted(units))}){without}."


def _apart_sentence(methods: Sequence[Method]) -> str:
    known = [(change.difference.value, method) for method in methods if (change := score_of(method))]
    ranked = [method for _, method in sorted(known, key=lambda pair: -pair[0])]
    if len(ranked) < 2:
        return "There are no two methods to compare."
    base = next((method for method in ranked if method.label.startswith("StaticReward")), ranked[-1])
    best = next(method for method in ranked if method is not base)
    worst = {method.label: measures_of(method).get("worst criterion") for method in (best, base)}
    levels = [f"{'an unknown level' if point is None else f'{point.value:.2f}'} under {label}" for label, point in worst.items()]
    ends = f"the worst criterion ended at {_enumerated(levels)}"
    found = apart(best, base)
    if found is None or not found[0].known:
        return f"{best.label} and {base.label} share neither seeds nor prompts, so their difference has no interval; {ends}."
    difference, units = found
    words = "excludes 0" if difference.direction else "includes 0: they cannot be told apart"
    less = f"the change under {best.label} minus that under {base.label}"
    return f"The difference, {less}, is {difference:+.3f} ({units}), which {words}; {ends}."


def _moved(change: Change) -> str:
    difference = change.difference
    if not difference.known:
        return "went up" if difference.value > 0 else "went down" if difference.value < 0 else "did not move"
    return {1: "rose", -1: "fell", 0: "did not change for certain"}[difference.direction]


def _excludes(change: Change) -> str:
    if not change.difference.known:
        return "without an interval"
    return f"an interval that {'excludes' if change.difference.direction else 'includes'} 0"


def _count(criteria: Mapping[str, object]) -> str:
    return "1 criterion" if len(criteria) == 1 else f"{len(criteria)} criteria"


def _name(key: str) -> str:
    return shortened(key, 40)


def _enumerated(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
