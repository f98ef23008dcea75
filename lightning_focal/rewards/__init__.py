"""Reward strategies: Lightning callbacks that turn criterion scores into rewards and advantages."""

from lightning_focal.rewards.answers import AnswerScores, GoldAnswers
from lightning_focal.rewards.baselines import (
    DivaWeighting,
    DvaoAdvantage,
    Gate,
    Gd2poAdvantage,
    GdpoAdvantage,
    ItemResponse,
    MoGrpoWeighting,
    SaMrpoAdvantage,
    SawWeighting,
    SoftMinAdvantage,
    SoftOverlong,
    WorstOf,
)
from lightning_focal.rewards.certainty import NegativeEntropy, SelfCertainty
from lightning_focal.rewards.focal import FocalReward, StandardisedFocalReward
from lightning_focal.rewards.functions import RewardFunctions
from lightning_focal.rewards.label_free import (
    CoRewardingI,
    CoRewardingII,
    CoRewardingIII,
    EntropyReward,
    FrozenVoteReward,
    GroundTruthReward,
    MajorityVoteReward,
    SelfCertaintyReward,
)
from lightning_focal.rewards.learning import InformedWeighting, PatientWeighting, Pow3rWeighting, RubricDropout
from lightning_focal.rewards.sources import RubricScores, ScoreSource
from lightning_focal.rewards.stages import (
    Advantage,
    FocalWeighting,
    GroupAdvantage,
    RewardRule,
    RlooAdvantage,
    Stage,
    StaticWeighting,
    WeightedSum,
    Weighting,
)
from lightning_focal.rewards.static import StaticReward
from lightning_focal.rewards.strategy import RewardStrategy, find_strategy
from lightning_focal.rewards.token_choice import NINE_CHOICES, TokenChoice, TokenChoiceScores
from lightning_focal.rewards.votes import FrozenVotes, OwnVotes, PairedTeacherVotes, PairVotes, TeacherVotes

__all__ = [
    "NINE_CHOICES",
    "Advantage",
    "AnswerScores",
    "CoRewardingI",
    "CoRewardingII",
    "CoRewardingIII",
    "DivaWeighting",
    "DvaoAdvantage",
    "EntropyReward",
    "FocalReward",
    "FocalWeighting",
    "FrozenVoteReward",
    "FrozenVotes",
    "Gate",
    "Gd2poAdvantage",
    "GdpoAdvantage",
    "GoldAnswers",
    "GroundTruthReward",
    "GroupAdvantage",
    "InformedWeighting",
    "ItemResponse",
    "MajorityVoteReward",
    "MoGrpoWeighting",
    "NegativeEntropy",
    "OwnVotes",
    "PairVotes",
    "PairedTeacherVotes",
    "PatientWeighting",
    "Pow3rWeighting",
    "RewardFunctions",
    "RewardRule",
    "RewardStrategy",
    "RlooAdvantage",
    "RubricDropout",
    "RubricScores",
    "SaMrpoAdvantage",
    "SawWeighting",
    "ScoreSource",
    "SelfCertainty",
    "SelfCertaintyReward",
    "SoftMinAdvantage",
    "SoftOverlong",
    "Stage",
    "StandardisedFocalReward",
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
