"""Environments: conversations of several turns, with tools and scores of their own.

What needs torch is imported when it is first used: the process in which tools run has no need of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_focal.environments.base import Environment, Episode, Task
from lightning_focal.environments.calculator import Calculator
from lightning_focal.environments.dialogue import Dialogue
from lightning_focal.environments.search import LocalSearch

if TYPE_CHECKING:
    from lightning_focal.environments.checks import check_environment
    from lightning_focal.environments.turns import TurnRollouts

__all__ = ["Calculator", "Dialogue", "Environment", "Episode", "LocalSearch", "Task", "TurnRollouts", "check_environment"]


def __getattr__(name: str) -> Any:
    if name == "TurnRollouts":
        from lightning_focal.environments.turns import TurnRollouts

        return TurnRollouts
    if name == "check_environment":
        from lightning_focal.environments.checks import check_environment

        return check_environment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
