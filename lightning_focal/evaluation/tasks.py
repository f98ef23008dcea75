"""Tasks by name and by YAML file, looked at before anything expensive starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lightning_focal.evaluation.package import expect_lm_eval, hushed

__all__ = ["Tasks", "load_tasks", "task_names"]


@dataclass(frozen=True)
class Tasks:
    """Tasks that are ready to be put to a model, their data read.

    Args:
        loaded: what the harness calls a task dict: ``tasks``, ``groups`` and ``group_map``.
        missing: benchmarks that a set names and the harness does not have, and why, from ``metadata.missing`` of its file.
    """

    loaded: Mapping[str, Any]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the tasks, those of groups one by one."""
        return list(self.loaded["tasks"])

    def documents(self, limit: float | None = None) -> int:
        """Return the number of questions in the smallest task, after ``limit``."""
        from lm_eval.evaluator_utils import get_sample_size

        sizes = [len(task.eval_docs) for task in self.loaded["tasks"].values()]
        limits = [get_sample_size(task, limit) for task in self.loaded["tasks"].values()]
        return min(size if cut is None else min(size, cut) for size, cut in zip(sizes, limits, strict=True))


def task_names(given: str | Sequence[str]) -> list[str]:
    """Take a comma-separated list apart; each name once.

    Raises:
        ValueError: if nothing is named.

    >>> task_names("gsm8k, my_task.yaml,gsm8k")
    ['gsm8k', 'my_task.yaml']
    """
    parts = [given] if isinstance(given, str) else list(given)
    names = list(dict.fromkeys(name.strip() for part in parts for name in str(part).split(",") if name.strip()))
    if not names:
        raise ValueError(f"`tasks` must name at least one task or YAML file, got {given!r}")
    return names


def load_tasks(given: str | Sequence[str], *, include_path: str | None = None, allow_code: bool = False) -> Tasks:
    """Find tasks, read their data, and refuse what cannot be run.

    Args:
        given: names, with ``*`` where wanted, and YAML files of tasks or of groups of tasks; a file's own paths are relative to the
            working folder. Names need the harness's index of all tasks, some seconds; files of tasks alone do not.
        include_path: a folder whose YAML files are added to the names.
        allow_code: run tasks that execute what the model writes (CRUXEval, HumanEval, MBPP).

    Returns:
        The tasks.

    Raises:
        ModuleNotFoundError: without the harness, or without a package that a task needs.
        ValueError: naming the task, for a name that is not known (and those like it), a file that is not there or not a task,
            data that cannot be read or fetched, and code that is not allowed to run.
    """
    expect_lm_eval()
    names = task_names(given)
    files = {name: _read(name) for name in names if _is_file(name)}
    members = {name: _members(content) for name, content in files.items()}
    with hushed():
        manager = _manager(
            include_path, [name for name in names if name not in files] + [m for found in members.values() for m in found]
        )
        wanted: list[tuple[str, str]] = []
        for name in names:
            if name not in files:
                wanted += [(spec, name) for spec in _matches(manager, name)]
            elif "group" in files[name]:  # the harness takes groups from its index alone
                wanted.append((_indexed(manager, name, files[name]), name))
            else:
                wanted.append((str(Path(name).absolute()), name))
        for name, found in members.items():
            for member in found:
                _matches(manager, member, f" (of {name})")
        tasks: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        children: dict[str, Any] = {}
        for spec, name in wanted:
            loaded = _load(manager, spec, name)
            _expect_no_code(loaded["tasks"], allow_code)
            tasks |= loaded["tasks"]
            groups |= loaded["groups"]
            children |= loaded["group_map"]
    missing: dict[str, str] = {}
    for content in files.values():
        missing |= (content.get("metadata") or {}).get("missing") or {}
    return Tasks({"tasks": tasks, "groups": groups, "group_map": children}, missing)


def _members(content: Mapping[str, Any]) -> list[str]:
    """Names of tasks that the file of a group refers to."""
    found = content.get("task") if "group" in content else None
    return [member for member in ([found] if isinstance(found, str) else found or []) if isinstance(member, str)]


def _manager(include_path: str | None, needed: Sequence[str]) -> Any:
    """An index that knows the names wanted: of one's own tasks alone where that will do."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=include_path, include_defaults=False)
    if all(own.match_tasks([name]) for name in needed):
        return own
    return _all_tasks() if include_path is None else TaskManager(include_path=include_path)


def _indexed(manager: Any, name: str, content: dict[str, Any]) -> str:
    """Put the file of a group into the index; return the group's name there."""
    from lm_eval.tasks._index import TaskIndex

    group = str(content["group"])
    manager.task_index.pop(group, None)  # an earlier file's
    TaskIndex.process_cfg(content, Path(name).absolute(), manager.task_index)
    return group


@cache
def _all_tasks() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _read(name: str) -> dict[str, Any]:
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    if not Path(name).is_file():
        raise ValueError(f"`tasks`: the file {name!r} does not exist (looked in {Path.cwd()})")
    try:
        content: dict[str, Any] = load_yaml(name, resolve_func=False)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ValueError(f"`tasks`: {name} cannot be read as a task: {error}") from error
    if not ({"task", "group"} & content.keys()):
        raise ValueError(f"`tasks`: {name} is no task: it has neither `task` nor `group`, it has {', '.join(map(str, content))}")
    return content


def _matches(manager: Any, name: str, whose: str = "") -> list[str]:
    found: list[str] = manager.match_tasks([name])
    if not found:
        near = difflib.get_close_matches(name, manager.all_tasks, n=4, cutoff=0.6)
        hint = f"; near it: {', '.join(near)}" if near else "; `lightning_focal lm-eval ls tasks` lists them"
        raise ValueError(f"`tasks`: lm-evaluation-harness has no task {name!r}{whose}{hint}")
    return found


def _load(manager: Any, spec: str, name: str) -> Mapping[str, Any]:
    from datasets.exceptions import DatasetNotFoundError

    try:
        loaded: Mapping[str, Any] = manager.load([spec])
    except (ConnectionError, DatasetNotFoundError) as error:
        raise ValueError(
            f"`tasks`: the data of {name!r} is on a hub and not on this machine, and could not be fetched ({_line(error)}); "
            "fetch it where there is a network, or bring a task of your own with `dataset_path: json` and local files"
        ) from error
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"`tasks`: {name!r} needs a package that is not installed ({_line(error)})") from error
    except Exception as error:  # a task's own code may raise anything
        raise ValueError(f"`tasks`: {name!r} cannot be loaded: {type(error).__name__}: {_line(error)}") from error
    return loaded


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def _expect_no_code(tasks: Mapping[str, Any], allowed: bool) -> None:
    unsafe = [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not allowed:
        raise ValueError(
            f"`tasks`: {', '.join(unsafe)} would run code that the model writes; where that is safe (a container, say) allow it with "
            "`allow_code`"
        )
