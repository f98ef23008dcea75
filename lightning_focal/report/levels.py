"""Score, saturation and weight of each criterion over time, by criterion key, by name, and by tag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_focal.report.metrics import Series, keys
from lightning_focal.report.run import Run
from lightning_focal.types import level_key

__all__ = ["Levels", "run_levels"]

_MOST_LABELS = 120  # more labels than this hardly recur: those of rubrics written for one prompt


@dataclass
class Levels:
    """Of each label over rollout batches.

    Args:
        score: mean over judged rollouts.
        saturation: mean over the prompts with such a criterion.
        weight: the same, of the weight in force.
        share: of all weight in a batch; the labels of a batch sum to 1.
        prior: the same of the rubric's own weights; empty where it is not known.
    """

    score: dict[str, Series] = field(default_factory=dict)
    saturation: dict[str, Series] = field(default_factory=dict)
    weight: dict[str, Series] = field(default_factory=dict)
    share: dict[str, Series] = field(default_factory=dict)
    prior: dict[str, Series] = field(default_factory=dict)

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
        recorded = _recorded(rows, lambda criterion: [level_key(criterion["name"], criterion["tags"] or [])])
        logged = found["key"]
        if not logged.score:
            found["key"] = recorded
        else:
            logged.share, logged.prior = recorded.share, recorded.prior
        for kind, labels in _groupings(rows).items():
            found[kind] = _recorded(rows, labels)
    return {
        kind: levels for kind, levels in found.items() if levels.score and (kind == "key" or len(levels.score) <= _MOST_LABELS)
    }


def _logged(run: Run) -> Levels:
    names = keys(run.metrics, "train/criterion/", "/score")
    levels = Levels(
        score={name: run.metrics[f"train/criterion/{name}/score"] for name in names},
        saturation={name: series for name in names if (series := run.metrics.get(f"train/saturation/{name}"))},
        weight={name: series for name in names if (series := run.metrics.get(f"train/weight/{name}"))},
    )
    levels.share = _scaled(levels.weight)
    return levels


def _scaled(weights: Mapping[str, Series]) -> dict[str, Series]:
    totals: dict[int, float] = {}
    for series in weights.values():
        for batch, value in zip(series.batches, series.values, strict=True):
            totals[batch] = totals.get(batch, 0.0) + value
    shares: dict[str, Series] = {}
    for name, series in weights.items():
        known = dict(zip(series.batches, series.values, strict=True))
        shares[name] = Series()
        for batch in sorted(totals):
            if totals[batch] > 0:
                shares[name].add(batch, known.get(batch, 0.0) / totals[batch])
    return shares


def _groupings(rows: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[Mapping[str, Any]], list[str]]]:
    """Kinds of labels beside the key: the name where it says more, and each kind of tag (``level`` of ``level:hard``)."""
    criteria = {(c["name"], tuple(c["tags"] or ())) for row in rows for c in row["criteria"]}
    by_key = {level_key(name, tags) for name, tags in criteria}
    found: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {}
    if {name for name, _ in criteria} != by_key:
        found["name"] = lambda criterion: [criterion["name"]]
    for kind in sorted({_kind(tag) for _, tags in criteria for tag in tags}):
        if kind != "axis":
            found[kind if kind != "name" else "tag name"] = lambda criterion, kind=kind: [  # type: ignore[misc]
                tag.removeprefix(f"{kind}:") for tag in criterion["tags"] or () if _kind(tag) == kind
            ]
    return found


def _kind(tag: str) -> str:
    return tag.split(":", 1)[0] if ":" in tag else "tag"


def _recorded(rows: Iterable[Mapping[str, Any]], labels_of: Callable[[Mapping[str, Any]], list[str]]) -> Levels:
    levels = Levels()
    totals: dict[int, list[float]] = {}
    shares: dict[int, dict[str, list[float]]] = {}
    seen: set[tuple[int, str]] = set()
    for row in rows:
        batch, first = row["batch"], (row["batch"], row["prompt_id"]) not in seen
        seen.add((batch, row["prompt_id"]))
        for criterion in row["criteria"]:
            labels = labels_of(criterion)
            for label in labels:
                if criterion["score"] is not None:
                    levels.score.setdefault(label, Series()).add(batch, criterion["score"])
                if first:
                    levels.saturation.setdefault(label, Series()).add(batch, criterion["saturation"] or 0.0)
                    levels.weight.setdefault(label, Series()).add(batch, criterion["weight"] or 0.0)
            if first:  # weights belong to the prompt, all its rollouts repeat them
                pair = [criterion["weight"] or 0.0, criterion["prior_weight"] or 0.0]
                for label in labels or ["(none)"]:
                    sums = shares.setdefault(batch, {}).setdefault(label, [0.0, 0.0])
                    both = totals.setdefault(batch, [0.0, 0.0])
                    for i, value in enumerate(pair):
                        sums[i] += value
                        both[i] += value
    names = sorted({label for sums in shares.values() for label in sums})
    for i, found in enumerate((levels.share, levels.prior)):
        for batch, totalled in totals.items():
            if totalled[i] > 0:
                for label in names:
                    found.setdefault(label, Series()).add(batch, shares[batch].get(label, [0.0, 0.0])[i] / totalled[i])
    return levels
