"""Reward strategies: Lightning callbacks that turn criterion scores into rewards and advantages."""

from lightning_focal.rewards.answers import AnswerScores, GoldAnswers
from lightning_focal.rewards.baselines import DvaoAdvantage, Gate, GdpoAdvantage, SawWeighting, SoftMinAdvantage, WorstOf
from lightning_focal.rewards.certainty import NegativeEntropy, SelfCertainty
from lightning_focal.rewards.focal import FocalReward
from lightning_focal.rewards.label_free import (
    CoRewardingI,
    CoRewardingII,
    EntropyReward,
    GroundTruthReward,
    MajorityVoteReward,
    SelfCertaintyReward,
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
from lightning_focal.rewards.strategy import RewardStrategy, find_strategy
from lightning_focal.rewards.token_choice import NINE_CHOICES, TokenChoice, TokenChoiceScores
from lightning_focal.rewards.votes import OwnVotes, PairVotes, TeacherVotes

__all__ = [
    "NINE_CHOICES",
    "Advantage",
    "AnswerScores",
    "CoRewardingI",
    "CoRewardingII",
    "DvaoAdvantage",
    "EntropyReward",
    "FocalReward",
    "FocalWeighting",
    "Gate",
    "GdpoAdvantage",
    "GoldAnswers",
    "GroundTruthReward",
    "GroupAdvantage",
    "MajorityVoteReward",
    "NegativeEntropy",
    "OwnVotes",
    "PairVotes",
    "RewardRule",
    "RewardStrategy",
    "RlooAdvantage",
    "RubricScores",
    "SawWeighting",
    "ScoreSource",
    "SelfCertainty",
    "SelfCertaintyReward",
    "SoftMinAdvantage",
    "StaticReward",
    "StaticWeighting",
    "TeacherVotes",
    "TokenChoice",
    "TokenChoiceScores",
    "WeightedSum",
    "Weighting",
    "WorstOf",
    "find_strategy",
]
