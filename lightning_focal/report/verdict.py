"""What happened in a run, in plain sentences: what improved, what declined, and what an interval does not tell from 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

from lightning_focal.report.figures import Point
from lightning_focal.report.held_out import FEWEST_PROMPTS, Change, apart, criteria_of, measures_of, score_of
from lightning_focal.report.methods import Method
from lightning_focal.report.metrics import Series, keys
from lightning_focal.terminal import shortened

__all__ = ["verdict"]

_WORDS = {
    "improved": "that is an improvement, because the whole interval is above 0",
    "declined": "that is a decline, because the whole interval is below 0",
    "unclear": "that is no clear change, because the interval includes 0",
    "few": f"there is no verdict, because fewer than {FEWEST_PROMPTS} held-out prompts were scored",
    "open": "there is no verdict, because there is no interval",
}
_MOST_METHODS = 4  # with a sentence of their own


def verdict(methods: Sequence[Method]) -> tuple[str, ...]:
    """Return what happened, a sentence each: the held-out score, its criteria or how two methods differ, and the responses."""
    if len(methods) == 1:
        sentences = (_second_judge(methods[0]), _criteria_sentences(methods[0]), _response_sentence(methods[0]))
        return (_score_sentence(methods[0]), *chain(*sentences))
    return (*_method_sentences(methods), *_apart_sentences(methods))


def _score_sentence(method: Method) -> str:
    ends = sorted({run.batches for run in method.runs})
    batches = f"{ends[0]} to {ends[-1]} batches" if len(ends) > 1 else f"{ends[0]} {'batch' if ends == [1] else 'batches'}"
    if change := score_of(method):
        return f"The held-out score {_went(change, f' over {batches} of training')}"
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


def _second_judge(method: Method) -> list[str]:
    """What the held-out judge says of the same answers, where there is one."""
    change = score_of(method, "held_out_judge")
    return [f"By the held-out judge, which trains nothing, it {_went(change)}"] if change else []


def _first_and_last(method: Method, name: str) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of a training measure, over the runs that have both."""
    ends = [run.metrics.get(name, Series()).ends(run.batches) for run in method.runs]
    known = [pair for pair in ends if not math.isnan(sum(pair))]
    return (sum(first for first, _ in known) / len(known), sum(last for _, last in known) / len(known)) if known else None


def _criteria_sentences(method: Method) -> list[str]:
    changes = criteria_of(method)
    if not changes:
        trained = keys(method.runs[0].metrics, "train/criterion/", "/score")
        ends = {key: _first_and_last(method, f"train/criterion/{key}/score") for key in trained}
        moved = {key: pair[1] - pair[0] for key, pair in ends.items() if pair}
        return [f"{_up_and_down(moved)} in training, without an interval." if moved else "No criterion was judged."]
    if len(changes) == 1:
        return [f"It has one criterion, {_name(next(iter(changes)))}."]
    moved = {key: change.difference.value for key, change in changes.items()}
    of = {verdict: [key for key in changes if changes[key].verdict == verdict] for verdict in _WORDS}
    if of["open"]:
        first = f"{_up_and_down(moved)} on held-out prompts; they have no interval without rollouts or a second seed."
    else:
        parts = [_listed({key: moved[key] for key in of[word]}, word) for word in ("improved", "declined")]
        first = f"Of {_count(changes)} {' and '.join(parts)}"
        for kind, words in (("unclear", "without a clear change"), ("few", f"judged on fewer than {FEWEST_PROMPTS} prompts")):
            first += f"; {len(of[kind])} {'was' if len(of[kind]) == 1 else 'were'} {words}" if of[kind] else ""
        first += "."
    lowest, last = (min(changes, key=lambda k: changes[k].before.value), min(changes, key=lambda k: changes[k].after.value))
    before, after = changes[lowest].before.value, changes[last].after.value
    if lowest == last:
        return [first, f"The worst criterion is {_name(last)}: {before:.2f} before and {after:.2f} after training."]
    return [first, f"The worst criterion was {_name(lowest)} with {before:.2f}; now it is {_name(last)} with {after:.2f}."]


def _response_sentence(method: Method) -> list[str]:
    """How long responses became, and what may explain a low score."""
    before, after = (measures_of(method, evaluation).get("response tokens") for evaluation in (0, -1))
    if not before or not after or any(len(run.evaluations) < 2 for run in method.runs):
        return []
    cut = [run.evaluations[-1].get("measures", {}).get("val/rollout/truncated") for run in method.runs]
    limit = f"; {100 * sum(cut) / len(cut):.0f} % of them were cut off by the limit" if cut and all(cut) else ""
    return [f"Responses have {after.value:.0f} tokens on average, {before.value:.0f} before training{limit}."]


def _listed(moved: Mapping[str, float], words: str) -> str:
    kept = sorted(moved, key=lambda key: -abs(moved[key]))
    named = ", ".join(f"{_name(key)} {moved[key]:+z.2f}" for key in kept[:3])
    return f"{len(kept)} {words} ({named}{', ...' if len(kept) > 3 else ''})" if kept else f"none {words}"


def _up_and_down(moved: Mapping[str, float]) -> str:
    up, down = ({key: value for key, value in moved.items() if sign * value > 0} for sign in (1, -1))
    return f"Of {_count(moved)} {_listed(up, 'went up')} and {_listed(down, 'went down')}"


def _method_sentences(methods: Sequence[Method]) -> list[str]:
    known = [(method, change) for method in methods if (change := score_of(method))]
    if not known:
        return [
            "No run has held-out prompts before and after training, so the methods cannot be judged on prompts they did not train on."
        ]
    ranked = sorted(known, key=lambda pair: -pair[1].difference.value)
    shown = known if len(known) <= _MOST_METHODS else [*ranked[: _MOST_METHODS - 1], ranked[-1]]
    said = [f"Under {method.label} the held-out score {_went(change)}" for method, change in shown]
    if len(known) > len(shown):
        said.append(f"These are the best {len(shown) - 1} and the last of {len(known)} methods.")
    if without := len(methods) - len(known):
        said.append(f"{without} of {len(methods)} methods {'has' if without == 1 else 'have'} no two evaluations to compare.")
    return said


def _apart_sentences(methods: Sequence[Method]) -> list[str]:
    known = [(change.difference.value, method) for method in methods if (change := score_of(method))]
    ranked = [method for _, method in sorted(known, key=lambda pair: -pair[0])]
    if len(ranked) < 2:
        return ["There are no two methods to compare."]
    base = next((method for method in ranked if method.label.startswith("StaticReward")), ranked[-1])
    best = next(method for method in ranked if method is not base)
    worst = {method.label: measures_of(method).get("worst criterion") for method in (best, base)}
    levels = [
        f"at {'an unknown level' if point is None else f'{point.value:.2f}'} under {label}" for label, point in worst.items()
    ]
    ends = f"The worst criterion ended {_enumerated(levels)}."
    found = apart(best, base)
    if found is None or not found[0].known:
        return [f"{best.label} and {base.label} share neither seeds nor prompts, so their difference has no interval.", ends]
    difference, units = found
    words = "excludes 0" if difference.direction else "includes 0, so there is no clear difference"
    if any(change.verdict == "few" for method in (best, base) if (change := score_of(method))):
        words = f"is over fewer than {FEWEST_PROMPTS} prompts a run, so there is no verdict"
    more = f"{best.label} changed the score by {difference.value:+z.3f} compared with {base.label}"
    return [f"{more} ({_interval(difference)}, {units}): the interval {words}.", ends]


def _went(change: Change, during: str = "") -> str:
    ends, by = f"went from {change.before.value:.3f} to {change.after.value:.3f}{during}", change.difference
    return f"{ends}, a change of {by.value:+z.3f} ({_interval(by)}) over {change.units}: {_WORDS[change.verdict]}."


def _interval(point: Point) -> str:
    return f"95 % interval {point.low:+z.3f} to {point.high:+z.3f}" if point.known else "no interval"


def _count(criteria: Mapping[str, object]) -> str:
    return "1 criterion" if len(criteria) == 1 else f"{len(criteria)} criteria"


def _name(key: str) -> str:
    return shortened(key, 40)


def _enumerated(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
