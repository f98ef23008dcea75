"""Tasks of lm-evaluation-harness: looked at before anything expensive starts, and put to a model exactly as ``lm-eval run`` puts them."""

from __future__ import annotations

import difflib
import io
import logging
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Tasks", "evaluate_tasks", "expect_lm_eval", "flat_scores", "hushed", "load_tasks", "task_names"]

_SEED = 1234
"""Of NumPy, torch and the choice of examples, as in the harness; Python's generator starts at 0."""


def expect_lm_eval() -> None:
    """Say which extra brings lm-evaluation-harness, where it is not installed: ModuleNotFoundError."""
    if find_spec("lm_eval") is None:
        raise ModuleNotFoundError("evaluation needs lm-evaluation-harness: pip install 'lightning-focal[eval]'")


@contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Within the context the harness draws no progress bars and warns of errors alone, and it bootstraps in this process."""
    if not quiet:
        yield
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: Any = tqdm
    logger, draw, forked = logging.getLogger("lm_eval"), bar.__init__, os.environ.get("DISABLE_MULTIPROC")
    level = logger.level
    # not `disable`: vLLM divides by the time that its bar has measured
    bar.__init__ = lambda self, *args, **kwargs: draw(self, *args, **{**kwargs, "file": io.StringIO()})
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"  # its bootstrap would fork a process that holds a GPU
    try:
        yield
    finally:
        bar.__init__ = draw
        logger.setLevel(level)
        os.environ.pop("DISABLE_MULTIPROC")
        os.environ.update({} if forked is None else {"DISABLE_MULTIPROC": forked})


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

        tasks = self.loaded["tasks"].values()
        cuts = [] if limit is None else [get_sample_size(task, limit) for task in tasks]
        return min(int(count) for count in [*(len(task.eval_docs) for task in tasks), *cuts])


def task_names(given: str | Sequence[str]) -> list[str]:
    """Take a comma-separated list apart, each name once; ValueError if nothing is named.

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

    Raises:
        ModuleNotFoundError: without the harness, or without a package that a task needs.
        ValueError: naming the task, for a name that is not known (and those like it), a file that is not there or not a task,
            data that cannot be read or fetched, and code that is not allowed to run.
    """
    expect_lm_eval()
    names = task_names(given)
    files = {name: _read(name) for name in names if name.endswith((".yaml", ".yml"))}
    groups = {name: content for name, content in files.items() if "group" in content}
    needed = [(name, "") for name in names if name not in files]
    needed += [(member, f" (of {name})") for name, content in groups.items() for member in _members(content)]
    parts: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    missing: dict[str, str] = {}
    with hushed(), tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(groups):  # the harness takes groups from its index alone: they are put into it
            (Path(folder) / f"{number}.yaml").symlink_to(Path(name).absolute())
        manager = _manager([*([include_path] if include_path else []), folder], [name for name, _ in needed])
        found = {name: _matches(manager, name, whose) for name, whose in needed}
        for name in names:
            missing |= (files.get(name, {}).get("metadata") or {}).get("missing") or {}
            specs = [str(groups[name]["group"])] if name in groups else found.get(name) or [str(Path(name).absolute())]
            for spec in specs:
                loaded = _load(manager, spec, name)
                for part, content in parts.items():
                    content |= loaded[part]
    unsafe = [name for name, task in parts["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not allow_code:
        raise ValueError(
            f"`tasks`: {', '.join(unsafe)} would run code that the model writes; where that is safe (a container, say) allow it with "
            "`allow_code`"
        )
    return Tasks(parts, missing)


def _read(name: str) -> dict[str, Any]:
    """Read the file of a task or of a group, the functions that it names unresolved."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads ``!function module.name`` as text."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    if not Path(name).is_file():
        raise ValueError(f"`tasks`: the file {name!r} does not exist (looked in {Path.cwd()})")
    try:
        content = yaml.load(Path(name).read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ValueError(f"`tasks`: {name} cannot be read as a task: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`tasks`: {name} cannot be read as a task: a mapping was expected, got {type(content).__name__}")
    if not {"task", "group", "include"} & content.keys():
        raise ValueError(f"`tasks`: {name} is no task: it has neither `task` nor `group`, it has {', '.join(map(str, content))}")
    return content


def _members(content: Mapping[str, Any]) -> list[str]:
    """Names of tasks that the file of a group refers to."""
    found = content.get("task")
    return [member for member in ([found] if isinstance(found, str) else found or []) if isinstance(member, str)]


def _manager(folders: Sequence[str], needed: Sequence[str]) -> Any:
    """An index that knows the names wanted: of one's own tasks alone where that will do."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=list(folders), include_defaults=False)
    return own if all(own.match_tasks([name]) for name in needed) else TaskManager(include_path=list(folders))


def _matches(manager: Any, name: str, whose: str) -> list[str]:
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
    except Exception as error:  # a task's own code may raise anything
        line = str(error).strip().split("\n")[0][:300]
        if isinstance(error, (ConnectionError, DatasetNotFoundError)):
            raise ValueError(
                f"`tasks`: the data of {name!r} is on a hub and not on this machine, and could not be fetched ({line}); "
                "fetch it where there is a network, or bring a task of your own with `dataset_path: json` and local files"
            ) from error
        if isinstance(error, ModuleNotFoundError):
            raise ModuleNotFoundError(f"`tasks`: {name!r} needs a package that is not installed ({line})") from error
        raise ValueError(f"`tasks`: {name!r} cannot be loaded: {type(error).__name__}: {line}") from error
    return loaded


def evaluate_tasks(
    lm: Any,
    tasks: Tasks,
    *,
    limit: float | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = True,
    system_instruction: str | None = None,
    bootstrap_iters: int = 100_000,
    allow_code: bool = False,
    log_samples: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Evaluate a model of the harness on tasks.

    Seeds and the number of examples are set as ``lm_eval.simple_evaluate`` sets them, so the scores are those of ``lm-eval run``
    with the same options. The global random state is not put back.

    Args:
        lm: a model of the harness, see :func:`~lightning_focal.evaluation.policy_lm`.
        tasks: see :func:`~lightning_focal.evaluation.load_tasks`.
        limit: questions a task; below 1 a share of them; None = all.
        num_fewshot: worked examples before each question; None = as the task says.
        apply_chat_template: put questions as chats; ``lm-eval run`` needs ``--apply_chat_template`` for it.
        system_instruction: before every chat.
        bootstrap_iters: resamples for the standard errors that have no closed form; 0 = no standard errors.
        allow_code: run code that the model writes, where a task wants that.
        log_samples: keep every question and answer under ``samples``.
        quiet: no progress bars, no warnings.

    Returns:
        The harness's results: ``results`` by task and ``metric,filter``, ``versions``, ``n-shot``, ``n-samples``, ...; empty on every
        process but the first.
    """
    import lm_eval
    import numpy as np
    import torch

    for task in tasks.loaded["tasks"].values():
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    random.seed(0)
    np.random.seed(_SEED)  # noqa: NPY002 - what tasks draw from
    torch.manual_seed(_SEED)
    with hushed(quiet):
        results = lm_eval.evaluate(
            lm=lm,
            task_dict=dict(tasks.loaded),
            limit=limit,
            bootstrap_iters=bootstrap_iters,
            log_samples=log_samples,
            system_instruction=system_instruction,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
            confirm_run_unsafe_code=allow_code,
        )
    return dict(results or {})


def flat_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Return ``<task>/<metric>``, with ``/<filter>`` behind it where the task has filters of its own.

    >>> flat_scores({"results": {"sums": {"alias": "sums", "acc,none": 0.5, "exact_match,strict": 0.25, "acc_stderr,none": "N/A"}}})
    {'sums/acc': 0.5, 'sums/exact_match/strict': 0.25}
    """
    flat = {}
    for task, measured in results.get("results", {}).items():
        for name, value in measured.items():
            metric, comma, chosen = name.partition(",")
            if comma and isinstance(value, (int, float)):
                flat[f"{task}/{metric}" + (f"/{chosen}" if chosen != "none" else "")] = float(value)
    return flat
