"""Score, saturation and weight of each criterion over time, by criterion key, by name, and by tag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_focal.keys import log_key
from lightning_focal.report.metrics import Series, keys
from lightning_focal.report.run import Run

__all__ = ["Levels", "run_levels"]

_MOST_LABELS = 120  # more labels than this hardly recur: those of rubrics written for one prompt
_NO_LABEL = "(none)"

Labels = Callable[[Mapping[str, Any]], list[str]]


@dataclass
class Levels:
    """Of each label over rollout batches."""

    score: dict[str, Series] = field(default_factory=dict)  # mean over judged rollouts
    saturation: dict[str, Series] = field(default_factory=dict)  # mean over the prompts with such a criterion
    weight: dict[str, Series] = field(default_factory=dict)  # the same, of the weight in force
    share: dict[str, Series] = field(default_factory=dict)  # of all weight in a batch; the labels of a batch sum to 1
    prior: dict[str, Series] = field(default_factory=dict)  # the same of the rubric's own weights; empty where not known

    @property
    def labels(self) -> list[str]:
        """All that have a score, sorted."""
        return sorted(self.score)


def run_levels(run: Run) -> dict[str, Levels]:
    """Return the levels of a run by what its criteria are grouped by: ``key`` first, ``name`` and the kinds of tags where recorded.

    Levels by key are those logged in every batch. The rest, and shares, are from the recorded rollouts; without those the
    shares are the logged weights, scaled to sum to 1.
    """
    found = {"key": _logged(run)}
    rows = run.train.rows
    if rows:
        recorded = _recorded(rows, lambda criterion: [log_key(criterion["name"], criterion["tags"] or [])])
        if found["key"].score:
            found["key"].share, found["key"].prior = recorded.share, recorded.prior
        else:
            found["key"] = recorded
        found |= {kind: _recorded(rows, labels) for kind, labels in _groupings(rows).items()}
    return {
        kind: levels for kind, levels in found.items() if levels.score and (kind == "key" or len(levels.score) <= _MOST_LABELS)
    }


def _logged(run: Run) -> Levels:
    names = keys(run.metrics, "train/criterion/", "/score")
    score, saturation, weight = (
        {name: run.metrics[column] for name in names if (column := pattern.format(name)) in run.metrics}
        for pattern in ("train/criterion/{}/score", "train/saturation/{}", "train/weight/{}")
    )
    return Levels(score, saturation, weight, _shares(weight))


def _shares(weights: Mapping[str, Series]) -> dict[str, Series]:
    """Sum of the weights of each label in a batch, divided by that of all labels."""
    sums = {name: dict(zip(series.batches, series.sums, strict=True)) for name, series in weights.items()}
    shares: dict[str, Series] = {name: Series() for name in sorted(weights)}
    for batch in sorted({batch for known in sums.values() for batch in known}):
        total = sum(known.get(batch, 0.0) for known in sums.values())
        for name in shares if total > 0 else ():
            shares[name].add(batch, sums[name].get(batch, 0.0) / total)
    return {name: series for name, series in shares.items() if series.batches}


def _groupings(rows: Sequence[Mapping[str, Any]]) -> dict[str, Labels]:
    """Kinds of labels beside the key: the name where it says more, and each kind of tag (``level`` of ``level:hard``)."""
    criteria = {(c["name"], tuple(c["tags"] or ())) for row in rows for c in row["criteria"]}
    found: dict[str, Labels] = {}
    if {name for name, _ in criteria} != {log_key(name, tags) for name, tags in criteria}:
        found["name"] = lambda criterion: [criterion["name"]]
    for kind in sorted({_kind(tag) for _, tags in criteria for tag in tags} - {"axis", "pool"}):
        found["tag name" if kind == "name" else kind] = _labels_of(kind)
    return found


def _labels_of(kind: str) -> Labels:
    return lambda criterion: [tag.removeprefix(f"{kind}:") for tag in criterion["tags"] or () if _kind(tag) == kind]


def _kind(tag: str) -> str:
    return tag.split(":", 1)[0] if ":" in tag else "tag"


def _recorded(rows: Iterable[Mapping[str, Any]], labels_of: Labels) -> Levels:
    levels, prior = Levels(), dict[str, Series]()
    seen: set[tuple[int, str]] = set()
    for row in rows:
        batch, prompt = row["batch"], (row["batch"], row["prompt_id"])
        for criterion in row["criteria"]:
            for label in labels_of(criterion) or [_NO_LABEL]:
                if criterion["score"] is not None:
                    levels.score.setdefault(label, Series()).add(batch, criterion["score"])
                if prompt not in seen:  # weights belong to the prompt, all its rollouts repeat them
                    for kept, name in ((levels.saturation, "saturation"), (levels.weight, "weight"), (prior, "prior_weight")):
                        kept.setdefault(label, Series()).add(batch, criterion[name] or 0.0)
        seen.add(prompt)
    levels.share, levels.prior = _shares(levels.weight), _shares(prior)
    for kept in (levels.score, levels.saturation, levels.weight):
        kept.pop(_NO_LABEL, None)
    return levels
