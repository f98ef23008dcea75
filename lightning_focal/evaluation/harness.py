"""Tasks put to a model, exactly as ``lm-eval run`` puts them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from lightning_focal.evaluation.package import hushed
from lightning_focal.evaluation.tasks import Tasks

__all__ = ["evaluate_tasks", "flat_scores"]

_SEED = 1234
"""Of NumPy, torch and the choice of examples, as in the harness; Python's generator starts at 0."""


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
        lm: a model of the harness, see :func:`~lightning_focal.evaluation.model.policy_lm`.
        tasks: see :func:`~lightning_focal.evaluation.tasks.load_tasks`.
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
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate

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
        results = evaluate(
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
