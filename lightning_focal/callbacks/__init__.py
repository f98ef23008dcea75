"""Observers and helpers beside the training loop."""

from lightning_focal.callbacks.console import ConsoleReport
from lightning_focal.callbacks.held_out import HeldOut
from lightning_focal.callbacks.observer import Answers, RolloutObserver
from lightning_focal.callbacks.rollout_table import RolloutTable

__all__ = ["Answers", "ConsoleReport", "HeldOut", "RolloutObserver", "RolloutTable"]
