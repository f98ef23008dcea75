"""lm-evaluation-harness: in training, after it, and by its own command line."""

from __future__ import annotations

from lightning_focal.evaluation.callback import LMEval
from lightning_focal.evaluation.harness import evaluate_tasks, flat_scores
from lightning_focal.evaluation.model import policy_lm, register
from lightning_focal.evaluation.tasks import Tasks, load_tasks

__all__ = ["LMEval", "Tasks", "evaluate_tasks", "flat_scores", "load_tasks", "policy_lm", "register"]
