"""What came out, in two sentences: what rose, what fell, and what an interval does not tell from 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lightning_focal.report.comparisons import apart, criteria_of, measures_of, score_of
from lightning_focal.report.figures import Point, shortened
from lightning_focal.report.held_out import Change
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import Series, keys

__all__ = ["verdict"]


def verdict(methods: Sequence[Method]) -> tuple[str, str]:
    """Return two sentences about the methods: one on the held-out score, one on its criteria."""
    if len(methods) == 1:
        return _score_sentence(methods[0]), _criteria_sentence(methods[0])
    return _methods_sentence(methods), _apart_sentence(methods)


def _score_sentence(method: Method) -> str:
    change, batches = score_of(method), _batches(method)
    if change is None:
        return _without_held_out(method, batches)
    kind = f"over {change.units}" if len(method.runs) > 1 else f"bootstrap over {change.units}"
    return (
        f"The held-out score {_moved(change)} over {batches}, from {change.before.value:.3f} to {change.after.value:.3f}: "
        f"a {'paired ' if 'prompts' in change.units else ''}difference of {_signed(change.difference)} (95 % {kind}), {_excludes(change)}."
    )


def _without_held_out(method: Method, batches: str) -> str:
    if any(run.evaluations for run in method.runs):
        when = (
            "The run has one evaluation of its held-out prompts alone" if len(method.runs) == 1 else "No run has two evaluations"
        )
        reason = f"{when}, so there is no before and after"
    else:
        reason = "There were no held-out prompts, so nothing can be said about prompts that were not trained on"
    course = _first_and_last(method, "train/reward/prior") or _first_and_last(method, "train/reward/static")
    if course is None:
        return f"{reason}."
    return (
        f"{reason}; in training, over {batches}, the static score went from {course[0]:.3f} to {course[1]:.3f} "
        "(means of the first and of the last tenth, on different prompts, without an interval)."
    )


def _first_and_last(method: Method, name: str) -> tuple[float, float] | None:
    ends = []
    for run in method.runs:
        series = run.metrics.get(name, Series())
        if series.batches:
            tenth = max(1, run.batches // 10)
            ends.append((series.mean(0, tenth - 1), series.mean(run.batches - tenth, run.batches)))
    known = [(first, last) for first, last in ends if first == first and last == last]
    return (sum(p[0] for p in known) / len(known), sum(p[1] for p in known) / len(known)) if known else None


def _criteria_sentence(method: Method) -> str:
    changes = criteria_of(method)
    if not changes:
        moved = {
            key: ends[1] - ends[0]
            for key in _training_keys(method)
            if (ends := _first_and_last(method, f"train/criterion/{key}/score"))
        }
        if not moved:
            return "No criterion was judged."
        return f"Of {_count(len(moved))} {_extremes(moved)}; without an interval."
    if len(changes) == 1:
        ((key, change),) = changes.items()
        return (
            f"Its single criterion, {_name(key)}, {_moved(change)}: {change.before.value:.2f} to {change.after.value:.2f}, "
            f"{_signed(change.difference)}, {_excludes(change)}."
        )
    sure = all(change.difference.low is not None for change in changes.values())
    if not sure:
        return (
            f"Of {_count(len(changes))} {_extremes({k: c.difference.value for k, c in changes.items()})} on held-out prompts; "
            "without rollouts, or a second seed, there is no interval."
        )
    parts = [part for part in (_listed(changes, 1, "rose"), _listed(changes, -1, "fell")) if part]
    unsure = sum(change.direction == 0 for change in changes.values())
    if unsure:
        parts.append(f"the interval{'' if unsure == 1 else 's'} of {unsure} include{'s' if unsure == 1 else ''} 0")
    first, last = (min(changes, key=lambda k: changes[k].before.value), min(changes, key=lambda k: changes[k].after.value))
    before, after = changes[first].before.value, changes[last].after.value
    lowest = (
        f"the worst, {_name(first)}, went from {before:.2f} to {after:.2f}"
        if first == last
        else f"the worst was {_name(first)} at {before:.2f} and is {_name(last)} at {after:.2f}"
    )
    return f"Of {_count(len(changes))} {_enumerated(parts)}; {lowest}."


def _listed(changes: Mapping[str, Change], direction: int, word: str) -> str:
    kept = sorted((k for k, c in changes.items() if c.direction == direction), key=lambda k: -abs(changes[k].difference.value))
    if not kept:
        return f"none {word}"
    named = ", ".join(f"{_name(key)} {changes[key].difference.value:+.2f}" for key in kept[:3])
    return f"{len(kept)} {word} ({named}{', ...' if len(kept) > 3 else ''})"


def _extremes(moved: Mapping[str, float]) -> str:
    parts = []
    for sign, words in ((1, "went up"), (-1, "went down")):
        there = sorted((key for key in moved if sign * moved[key] > 0), key=lambda key: -abs(moved[key]))
        most = f" (most: {_name(there[0])} {moved[there[0]]:+.2f})" if there else ""
        parts.append(f"{len(there) or 'none'} {words}{most}")
    return _enumerated(parts)


def _methods_sentence(methods: Sequence[Method]) -> str:
    known = {method.label: change for method in methods if (change := score_of(method)) is not None}
    if not known:
        return "No run has held-out prompts before and after training, so the methods cannot be judged on prompts they were not trained on."
    parts = []
    for direction, words in ((1, "rose under"), (-1, "fell under"), (0, "cannot be said to have moved under")):
        ranked = sorted(
            (label for label in known if known[label].direction == direction), key=lambda k: -known[k].difference.value
        )
        if ranked:
            named = [f"{label} ({_signed(known[label].difference)})" for label in ranked]
            more = f" and {len(named) - 3} more" if len(named) > 4 else ""
            parts.append(f"{words} {_enumerated(named if not more else [*named[:2], named[-1]])}{more}")
    missing = len(methods) - len(known)
    without = f"; {missing} without two evaluations" if missing else ""
    return f"The held-out score {'; it '.join(parts)} (95 %, over {_units(known.values())}){without}."


def _units(changes: Iterable[Change]) -> str:
    return " or ".join(
        sorted({f"{c.units} by Student's t" if "seeds" in c.units else f"{c.units} by bootstrap" for c in changes})
    )


def _apart_sentence(methods: Sequence[Method]) -> str:
    ranked = sorted((m for m in methods if score_of(m)), key=lambda m: -score_of(m).difference.value)  # type: ignore[union-attr]
    if len(ranked) < 2:
        return "There are no two methods to compare."
    base = next((m for m in ranked if m.label.startswith("StaticReward")), ranked[-1])
    best = next(m for m in ranked if m is not base)
    found = apart(best, base)
    worst = _enumerated([f"{_worst_after(m)} under {m.label}" for m in (best, base)])
    ends = f"; the worst criterion ended at {worst}"
    if found is None or found[0].low is None or found[0].high is None:
        return f"{best.label} and {base.label} share neither seeds nor prompts, so their difference has no interval{ends}."
    difference, units = found
    words = "includes 0: they cannot be told apart" if found[0].low <= 0 <= found[0].high else "excludes 0"
    less = f"the change under {best.label} minus that under {base.label}"
    return f"The difference, {less}, is {_signed(difference)} ({units}), which {words}{ends}."


def _worst_after(method: Method) -> str:
    point = measures_of(method).get("worst criterion")
    return "an unknown level" if point is None else f"{point.value:.2f}"


def _training_keys(method: Method) -> list[str]:
    return keys(method.runs[0].metrics, "train/criterion/", "/score")


def _moved(change: Change) -> str:
    if change.difference.low is None:
        return "went up" if change.difference.value > 0 else "went down" if change.difference.value < 0 else "did not move"
    return {1: "rose", -1: "fell", 0: "did not change for certain"}[change.direction]


def _excludes(change: Change) -> str:
    if change.difference.low is None:
        return "without an interval"
    return "an interval that excludes 0" if change.direction else "an interval that includes 0"


def _signed(point: Point) -> str:
    between = "" if point.low is None or point.high is None else f" [{point.low:+.3f}, {point.high:+.3f}]"
    return f"{point.value:+.3f}{between}"


def _batches(method: Method) -> str:
    numbers = sorted({run.batches for run in method.runs})
    spelt = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return f"{spelt} {'batch' if numbers == [1] else 'batches'}"


def _count(number: int) -> str:
    return "1 criterion" if number == 1 else f"{number} criteria"


def _name(key: str) -> str:
    return shortened(key, 40)


def _enumerated(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
