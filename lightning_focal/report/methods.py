"""Which runs are the same method with another seed, and what to call them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_focal.report.run import Run

__all__ = ["Method", "group_runs", "settings_of"]

_NOT_METHOD = ("run_dir", "ckpt_path", "trainer.default_root_dir", "trainer.logger", "weights_only", "model.cache_dir")
_SEED = re.compile(r"(?<=[?&])seed=-?\d+")


@dataclass(frozen=True)
class Method:
    """Runs whose configurations differ in seeds alone."""

    label: str  # name of the strategy, and what tells it from the other methods
    runs: tuple[Run, ...]  # one a seed
    seeds: tuple[Any, ...]  # of each; None where it is not known

    @property
    def titles(self) -> list[tuple[str, Run]]:
        """Label of each run among several, and the run."""
        if len(self.runs) == 1:
            return [(self.label, self.runs[0])]
        told = [seed is not None and self.seeds.count(seed) == 1 for seed in self.seeds]
        names = [f"seed {seed}" if alone else run.name for run, seed, alone in zip(self.runs, self.seeds, told, strict=True)]
        return [(f"{self.label}, {name}", run) for name, run in zip(names, self.runs, strict=True)]


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Group runs by method, in the order of their first run.

    Values under a key called ``seed``, ``seed_everything`` and ``seed=N`` within an address are seeds; folders do not count either.
    """
    settings = [dict(settings_of(run.config)) for run in runs]
    groups: dict[str, list[int]] = {}
    for at, found in enumerate(settings):
        groups.setdefault(json.dumps(found, sort_keys=True, default=str) if found else f"unknown {at}", []).append(at)
    firsts = [members[0] for members in groups.values()]
    labels = _labels([settings[first] for first in firsts], [runs[first] for first in firsts])
    return [
        Method(label, tuple(runs[at] for at in members), tuple(runs[at].config.get("seed_everything") for at in members))
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def settings_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a configuration by key path, without what is no part of the method."""
    if path in _NOT_METHOD or path.rsplit(".", 1)[-1] in ("seed", "seed_everything", "dirpath"):
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from settings_of(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, _SEED.sub("seed=*", value) if isinstance(value, str) else value


def _labels(settings: list[dict[str, Any]], runs: list[Run]) -> list[str]:
    """Name of each run's strategy, with up to three settings that tell it from others of that name."""
    names = [_strategy(run) for run in runs]
    labels = []
    for name, mine in zip(names, settings, strict=True):
        rivals = [theirs for theirs, other in zip(settings, names, strict=True) if other == name]
        paths = dict.fromkeys(path for rival in rivals for path in mine if mine[path] != rival.get(path))
        labels.append(", ".join([name, *(f"{path.rsplit('.', 1)[-1]} {_spelt(mine[path])}" for path in [*paths][:3])]))
    return [f"{label} ({run.name})" if labels.count(label) > 1 else label for label, run in zip(labels, runs, strict=True)]


def _spelt(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"…{text[-39:]}"


def _strategy(run: Run) -> str:
    """Name of the class that shapes the reward, from either place a configuration may have it; the folder's where there is none."""
    trainer = run.config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, Mapping) else None
    paths = [_class_path(callback) for callback in callbacks] if isinstance(callbacks, list) else []
    shaping = [path for path in paths if path.startswith("lightning_focal.rewards.") or path.endswith("Reward")]
    known = [path for path in (_class_path(run.config.get("reward")), *shaping) if path]
    return known[0].rsplit(".", 1)[-1] if known else run.name


def _class_path(entry: Any) -> str:
    path = entry.get("class_path") if isinstance(entry, Mapping) else None
    return path if isinstance(path, str) else ""
