"""The mathematics: tensors in, tensors out, one file per idea."""

from __future__ import annotations

from lightning_focal.functional.advantages import group_advantage, rloo_advantage
from lightning_focal.functional.aggregation import AGGREGATIONS, loss_normaliser, masked_aggregate
from lightning_focal.functional.balance import (
    bottom_quartile_mean,
    effective_number,
    gini,
    min_over_mean,
    saturated_mass,
    spread_over_criteria,
    strict_completion,
    worst_criterion,
)
from lightning_focal.functional.bootstrap import bootstrap_interval
from lightning_focal.functional.boxed import extract_boxed
from lightning_focal.functional.certainty import self_certainty, token_entropy
from lightning_focal.functional.criterion_sums import CriterionSums, criterion_sums
from lightning_focal.functional.dvao import dvao_advantage
from lightning_focal.functional.ema import cosine_ema_weight, ema_update
from lightning_focal.functional.gates import gated_reward, worst_of_reward
from lightning_focal.functional.gdpo import gdpo_advantage
from lightning_focal.functional.groups import batch_moments, batch_std
from lightning_focal.functional.importance import sampling_gap, truncated_importance_weights
from lightning_focal.functional.kl import kl_divergence
from lightning_focal.functional.layers import gated_mlp, rms_norm, rotate
from lightning_focal.functional.levels import level_index, level_sums, pool_levels, scatter_sums
from lightning_focal.functional.logprobs import chunked_logp_from_hidden
from lightning_focal.functional.policy_loss import clipped_policy_loss, policy_statistics
from lightning_focal.functional.products import linear, onednn_products, prefers_onednn
from lightning_focal.functional.projection import inverse_reward_projection, projected_sums
from lightning_focal.functional.rewarding import weighted_reward
from lightning_focal.functional.saw import criterion_moments, saw_weights
from lightning_focal.functional.simplex import project_bounded_simplex
from lightning_focal.functional.softmin import softmin_advantage
from lightning_focal.functional.student import student_interval, student_quantile
from lightning_focal.functional.voting import Vote, majority_vote
from lightning_focal.functional.weighting import base_weights, focal_weights
from lightning_focal.functional.zscores import group_spread, group_zscores

__all__ = [
    "AGGREGATIONS",
    "CriterionSums",
    "Vote",
    "base_weights",
    "batch_moments",
    "batch_std",
    "bootstrap_interval",
    "bottom_quartile_mean",
    "chunked_logp_from_hidden",
    "clipped_policy_loss",
    "cosine_ema_weight",
    "criterion_moments",
    "criterion_sums",
    "dvao_advantage",
    "effective_number",
    "ema_update",
    "extract_boxed",
    "focal_weights",
    "gated_mlp",
    "gated_reward",
    "gdpo_advantage",
    "gini",
    "group_advantage",
    "group_spread",
    "group_zscores",
    "inverse_reward_projection",
    "kl_divergence",
    "level_index",
    "level_sums",
    "linear",
    "loss_normaliser",
    "majority_vote",
    "masked_aggregate",
    "min_over_mean",
    "onednn_products",
    "policy_statistics",
    "pool_levels",
    "prefers_onednn",
    "project_bounded_simplex",
    "projected_sums",
    "rloo_advantage",
    "rms_norm",
    "rotate",
    "sampling_gap",
    "saturated_mass",
    "saw_weights",
    "scatter_sums",
    "self_certainty",
    "softmin_advantage",
    "spread_over_criteria",
    "strict_completion",
    "student_interval",
    "student_quantile",
    "token_entropy",
    "truncated_importance_weights",
    "weighted_reward",
    "worst_criterion",
    "worst_of_reward",
]
