"""Which runs are the same method with another seed, and what to call them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_focal.report.run import Run

__all__ = ["Method", "group_runs"]

_NOT_METHOD = ("run_dir", "ckpt_path", "trainer.default_root_dir", "trainer.logger", "weights_only", "model.cache_dir")
_SEED = re.compile(r"(?<=[?&])seed=-?\d+")


@dataclass(frozen=True)
class Method:
    """Runs whose configurations differ in seeds alone.

    Args:
        label: name of the strategy, and what tells it from the other methods.
        runs: one a seed.
        seeds: of each, ``seed_everything``; None where it is not known.
    """

    label: str
    runs: tuple[Run, ...]
    seeds: tuple[Any, ...]

    def title(self, run: Run) -> str:
        """Label of one run among several."""
        at = self.runs.index(run)
        if len(self.runs) == 1:
            return self.label
        twice = self.seeds.count(self.seeds[at]) > 1
        return f"{self.label}, {run.name}" if twice or self.seeds[at] is None else f"{self.label}, seed {self.seeds[at]}"


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Group runs by method, in the order of their first run.

    Values under a key called ``seed``, ``seed_everything`` and ``seed=N`` within an address are seeds; folders do not count either.
    """
    settings = [dict(_settings(run.config)) for run in runs]
    groups: dict[str, list[int]] = {}
    for at, found in enumerate(settings):
        known = json.dumps(found, sort_keys=True, default=str) if found else f"unknown {at}"
        groups.setdefault(known, []).append(at)
    firsts = [members[0] for members in groups.values()]
    labels = _labels([settings[first] for first in firsts], [runs[first] for first in firsts])
    return [
        Method(label, tuple(runs[at] for at in members), tuple(runs[at].config.get("seed_everything") for at in members))
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def _settings(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a configuration by key path, without what is no part of the method."""
    if path in _NOT_METHOD or path.rsplit(".", 1)[-1] in ("seed", "seed_everything", "dirpath"):
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, _SEED.sub("seed=*", value) if isinstance(value, str) else value


def _labels(settings: list[dict[str, Any]], runs: list[Run]) -> list[str]:
    labels = [_strategy(run) for run in runs]
    for at, label in enumerate(labels):
        rivals = [other for other in range(len(labels)) if other != at and _strategy(runs[other]) == _strategy(runs[at])]
        paths = dict.fromkeys(path for path in settings[at] for rival in rivals if _differ(settings, at, rival, path))
        words = [f"{path.rsplit('.', 1)[-1]} {_spelt(settings[at][path])}" for path in paths]
        labels[at] = ", ".join([label, *words[:3]])
    return [f"{label} ({run.name})" if labels.count(label) > 1 else label for label, run in zip(labels, runs, strict=True)]


def _differ(settings: list[dict[str, Any]], one: int, other: int, path: str) -> bool:
    return bool(settings[one].get(path) != settings[other].get(path))


def _spelt(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"…{text[-39:]}"


def _strategy(run: Run) -> str:
    """Name of the class that shapes the reward, from either place a configuration may have it; the folder's where there is none."""
    trainer = run.config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, Mapping) else None
    given = _class_path(run.config.get("reward"))
    paths = [_class_path(callback) for callback in callbacks] if isinstance(callbacks, list) else []
    known = [given, *(path for path in paths if path.startswith("lightning_focal.rewards.") or path.endswith("Reward"))]
    return next((path.rsplit(".", 1)[-1] for path in known if path), run.name)


def _class_path(entry: Any) -> str:
    path = entry.get("class_path") if isinstance(entry, Mapping) else None
    return path if isinstance(path, str) else ""
