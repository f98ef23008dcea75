"""The mathematics: tensors in, tensors out, one file per idea."""

from __future__ import annotations

from lightning_focal.functional.advantages import (
    dvao_advantage,
    gd2po_advantage,
    gdpo_advantage,
    group_advantage,
    rloo_advantage,
    softmin_advantage,
)
from lightning_focal.functional.aggregation import AGGREGATIONS, loss_normaliser, masked_aggregate
from lightning_focal.functional.answers import Vote, extract_boxed, majority_vote
from lightning_focal.functional.balance import (
    CriterionSums,
    bottom_quartile_mean,
    criterion_sums,
    effective_number,
    gini,
    min_over_mean,
    saturated_mass,
    spread_over_criteria,
    strict_completion,
    worst_criterion,
)
from lightning_focal.functional.certainty import self_certainty, token_entropy
from lightning_focal.functional.diagnostics import (
    compare_ranks,
    length_correlation,
    length_weight,
    pair_signs,
    projection_tilt,
    repeat_variance,
)
from lightning_focal.functional.ema import cosine_ema_weight, ema_update
from lightning_focal.functional.groups import batch_moments, batch_std, group_spread, group_zscores, varied_groups
from lightning_focal.functional.importance import IMPORTANCE_MODES, importance_weights, sampling_gap
from lightning_focal.functional.item_response import item_response_reward, probit_difficulty
from lightning_focal.functional.kl import kl_divergence
from lightning_focal.functional.logprobs import chunked_logp_from_hidden
from lightning_focal.functional.policy_loss import (
    LOSS_TYPES,
    RATIO_LEVELS,
    clipped_policy_loss,
    importance_ratio,
    policy_statistics,
    token_covariance,
)
from lightning_focal.functional.reliability import (
    disagreement_sums,
    informed_weights,
    informedness,
    informedness_of_confusion,
)
from lightning_focal.functional.rewarding import gated_reward, soft_overlong_punishment, weighted_reward, worst_of_reward
from lightning_focal.functional.saturation import (
    inverse_reward_projection,
    level_index,
    level_sums,
    pool_levels,
    projected_sums,
    scatter_sums,
)
from lightning_focal.functional.spread import (
    diva_weights,
    mo_grpo_weights,
    pow3r_factors,
    pow3r_weights,
    sa_mrpo_weights,
)
from lightning_focal.functional.weighting import (
    base_weights,
    criterion_moments,
    focal_weights,
    project_bounded_simplex,
    saw_weights,
)
from lightning_focal.functional.withheld import give_back, patience_step, rubric_dropout
from lightning_focal.intervals import bootstrap_interval, student_interval, student_quantile

__all__ = [
    "AGGREGATIONS",
    "IMPORTANCE_MODES",
    "LOSS_TYPES",
    "RATIO_LEVELS",
    "CriterionSums",
    "Vote",
    "base_weights",
    "batch_moments",
    "batch_std",
    "bootstrap_interval",
    "bottom_quartile_mean",
    "chunked_logp_from_hidden",
    "clipped_policy_loss",
    "compare_ranks",
    "cosine_ema_weight",
    "criterion_moments",
    "criterion_sums",
    "disagreement_sums",
    "diva_weights",
    "dvao_advantage",
    "effective_number",
    "ema_update",
    "extract_boxed",
    "focal_weights",
    "gated_reward",
    "gd2po_advantage",
    "gdpo_advantage",
    "gini",
    "give_back",
    "group_advantage",
    "group_spread",
    "group_zscores",
    "importance_ratio",
    "importance_weights",
    "informed_weights",
    "informedness",
    "informedness_of_confusion",
    "inverse_reward_projection",
    "item_response_reward",
    "kl_divergence",
    "length_correlation",
    "length_weight",
    "level_index",
    "level_sums",
    "loss_normaliser",
    "majority_vote",
    "masked_aggregate",
    "min_over_mean",
    "mo_grpo_weights",
    "pair_signs",
    "patience_step",
    "policy_statistics",
    "pool_levels",
    "pow3r_factors",
    "pow3r_weights",
    "probit_difficulty",
    "project_bounded_simplex",
    "projected_sums",
    "projection_tilt",
    "repeat_variance",
    "rloo_advantage",
    "rubric_dropout",
    "sa_mrpo_weights",
    "sampling_gap",
    "saturated_mass",
    "saw_weights",
    "scatter_sums",
    "self_certainty",
    "soft_overlong_punishment",
    "softmin_advantage",
    "spread_over_criteria",
    "strict_completion",
    "student_interval",
    "student_quantile",
    "token_covariance",
    "token_entropy",
    "varied_groups",
    "weighted_reward",
    "worst_criterion",
    "worst_of_reward",
]
