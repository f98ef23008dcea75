"""Environments: conversations of several turns, with tools and scores of their own."""

from __future__ import annotations

from lightning_focal.environments.base import Environment, Episode, Task
from lightning_focal.environments.calculator import Calculator
from lightning_focal.environments.checks import check_environment
from lightning_focal.environments.dialogue import Dialogue
from lightning_focal.environments.search import LocalSearch
from lightning_focal.environments.turns import TurnRollouts

__all__ = ["Calculator", "Dialogue", "Environment", "Episode", "LocalSearch", "Task", "TurnRollouts", "check_environment"]
