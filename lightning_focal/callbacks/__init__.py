"""Observers and helpers beside the training loop."""

from lightning_focal.callbacks.collapse import CollapseWatch
from lightning_focal.callbacks.console import ConsoleReport
from lightning_focal.callbacks.evolving import EvolvingRubrics
from lightning_focal.callbacks.held_out import HeldOut
from lightning_focal.callbacks.judge_watch import JudgeWatch
from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts
from lightning_focal.callbacks.rollout_table import RolloutTable
from lightning_focal.callbacks.teacher import EMATeacher

__all__ = [
    "CollapseWatch",
    "ConsoleReport",
    "EMATeacher",
    "EvolvingRubrics",
    "HeldOut",
    "JudgeWatch",
    "RolloutObserver",
    "RolloutTable",
    "ScoredRollouts",
]
