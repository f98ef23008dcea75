"""Reward strategies: Lightning callbacks that turn criterion scores into rewards and advantages."""

from lightning_focal.rewards.base import RewardStrategy, find_strategy
from lightning_focal.rewards.focal import FocalReward
from lightning_focal.rewards.neighbours import (
    DvaoAdvantage,
    Gate,
    GdpoAdvantage,
    SawWeighting,
    SoftMinAdvantage,
    WorstOf,
)
from lightning_focal.rewards.sources import RubricScores, ScoreSource
from lightning_focal.rewards.stages import (
    Advantage,
    FocalWeighting,
    GroupAdvantage,
    RewardRule,
    RlooAdvantage,
    StaticWeighting,
    WeightedSum,
    Weighting,
)
from lightning_focal.rewards.static import StaticReward
from lightning_focal.rewards.token_choice import NINE_CHOICES, TokenChoice, TokenChoiceScores

__all__ = [
    "NINE_CHOICES",
    "Advantage",
    "DvaoAdvantage",
    "FocalReward",
    "FocalWeighting",
    "Gate",
    "GdpoAdvantage",
    "GroupAdvantage",
    "RewardRule",
    "RewardStrategy",
    "RlooAdvantage",
    "RubricScores",
    "SawWeighting",
    "ScoreSource",
    "SoftMinAdvantage",
    "StaticReward",
    "StaticWeighting",
    "TokenChoice",
    "TokenChoiceScores",
    "WeightedSum",
    "Weighting",
    "WorstOf",
    "find_strategy",
]
