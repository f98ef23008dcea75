"""lm-evaluation-harness: in training, after it, and by its own command line."""

from __future__ import annotations

from lightning_focal.evaluation.callback import LMEval
from lightning_focal.evaluation.harness import Tasks, evaluate_tasks, flat_scores, load_tasks, task_names
from lightning_focal.evaluation.model import load_evaluated, policy_lm, register, vllm_lm

__all__ = [
    "LMEval",
    "Tasks",
    "evaluate_tasks",
    "flat_scores",
    "load_evaluated",
    "load_tasks",
    "policy_lm",
    "register",
    "task_names",
    "vllm_lm",
]
