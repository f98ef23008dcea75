"""lightning_focal: reinforcement learning on rubrics of many criteria, with PyTorch Lightning.

The names below are imported when they are first used: ``import lightning_focal`` alone loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_focal.callbacks import CollapseWatch, ConsoleReport, EMATeacher, HeldOut, JudgeWatch, RolloutTable
    from lightning_focal.data import PairDataModule, RubricDataModule
    from lightning_focal.generation import Sampling
    from lightning_focal.judges import Judge, RuleJudge
    from lightning_focal.metrics import CriterionBalance, CriterionSaturation
    from lightning_focal.modules import GRPOModule, SFTModule, Update
    from lightning_focal.report import LogMedia, WriteReport, write_report
    from lightning_focal.rewards import (
        CoRewardingI,
        CoRewardingII,
        FocalReward,
        RewardStrategy,
        StandardisedFocalReward,
        StaticReward,
    )
    from lightning_focal.runs import RunCheckpoint
    from lightning_focal.trainer import Trainer
    from lightning_focal.types import CriterionScores, Prompts, Rollouts

__version__ = "0.1.0"

_HOUSES = {
    "callbacks": "CollapseWatch ConsoleReport EMATeacher HeldOut JudgeWatch RolloutTable",
    "data": "PairDataModule RubricDataModule",
    "generation": "Sampling",
    "judges": "Judge RuleJudge",
    "metrics": "CriterionBalance CriterionSaturation",
    "modules": "GRPOModule SFTModule Update",
    "report": "LogMedia WriteReport write_report",
    "rewards": "CoRewardingI CoRewardingII FocalReward RewardStrategy StandardisedFocalReward StaticReward",
    "runs": "RunCheckpoint",
    "trainer": "Trainer",
    "types": "CriterionScores Prompts Rollouts",
}

__all__ = [
    "CoRewardingI",
    "CoRewardingII",
    "CollapseWatch",
    "ConsoleReport",
    "CriterionBalance",
    "CriterionSaturation",
    "CriterionScores",
    "EMATeacher",
    "FocalReward",
    "GRPOModule",
    "HeldOut",
    "Judge",
    "JudgeWatch",
    "LogMedia",
    "PairDataModule",
    "Prompts",
    "RewardStrategy",
    "RolloutTable",
    "Rollouts",
    "RubricDataModule",
    "RuleJudge",
    "RunCheckpoint",
    "SFTModule",
    "Sampling",
    "StandardisedFocalReward",
    "StaticReward",
    "Trainer",
    "Update",
    "WriteReport",
    "write_report",
]


def __getattr__(name: str) -> Any:
    house = next((house for house, names in _HOUSES.items() if name in names.split()), None)
    if house is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{house}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
