"""What every function refuses, in words; the checks of scores, weights and mask: test_baselines.py."""

import math

import pytest
import torch
from torch import ones, zeros

from lightning_focal import functional as fn
from lightning_focal.functional.agreement import cohen_kappa, confusion_matrix

NAN, INT = math.nan, torch.int64
PAIR = torch.zeros(1, 2)
YES, ONE = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
LABELS, TIED = torch.tensor([0, 1, 1, 2]), torch.zeros(2)
SCORES = torch.rand(1, 2, 2)


def clipped(**arguments):
    return fn.clipped_policy_loss(PAIR, PAIR, ones(1), YES, **arguments)


@pytest.mark.parametrize(("message", "call"), [
    ("`scale` must be 'group', 'none' or 'batch', got 'std'", lambda: fn.group_advantage(PAIR, scale="std")),
    (r"`first`, `second` and `mask` must have one shape, got \(4,\) and \(1,\)", lambda: confusion_matrix(LABELS, LABELS[:1], 3)),
    ("`second` must hold labels from 0 to 1, got 0 to 2", lambda: confusion_matrix(LABELS[:2], LABELS[::3], 2)),
    (r"`confusion` must be \[K, K\], got \(2, 3\)", lambda: cohen_kappa(zeros(2, 3))),
    ("`saturation` must be", lambda: fn.saturated_mass(zeros(3, 4), zeros(2, 4))),
    ("`n`, the number of names", lambda: fn.criterion_sums(zeros(1, 2, 3), index=zeros(1, 3, dtype=INT))),
    ("`n`, the number of names", lambda: fn.saw_weights(zeros(2, 1, 2), zeros(2, 2), index=zeros(2, 2, dtype=INT))),
    (r"`levels` must be \[K\]", lambda: fn.gini(zeros(2, 2))),
    ("`k` must be >= 0, got -1", lambda: fn.softmin_advantage(SCORES, PAIR, k=-1)),
    ("`agreement` must be in", lambda: fn.gd2po_advantage(SCORES, PAIR, agreement=1.5)),
    ("`epsilon` must be > 0", lambda: fn.diva_weights(SCORES, PAIR, epsilon=0.0)),
    ("`gamma` must be >= 0", lambda: fn.sa_mrpo_weights(SCORES, PAIR, gamma=-1.0)),
    (r"`strength` must be in \[0, 1\]", lambda: fn.pow3r_factors(SCORES, PAIR, strength=2.0)),
    ("`clip`", lambda: fn.pow3r_factors(SCORES, PAIR, clip=(0.0, 1.0))),
    ("`step` must be at least 0, got -1", lambda: fn.cosine_ema_weight(-1, 2)),
    ("`step` must be at least 0, got nan", lambda: fn.cosine_ema_weight(NAN, 2)),
    ("`total_steps` must be at least 1, got 0", lambda: fn.cosine_ema_weight(1, 0)),
    ("`start` and `end` must satisfy 0 <= start <= end <= 1, got 1.0 and 0.9999", lambda: fn.cosine_ema_weight(1, 2, start=1.0)),
    ("got -0.1 and 0.9999", lambda: fn.cosine_ema_weight(1, 2, start=-0.1)),
    ("got 0.99 and 1.1", lambda: fn.cosine_ema_weight(1, 2, end=1.1)),
    ("got 0.99 and nan", lambda: fn.cosine_ema_weight(1, 2, end=NAN)),
    ("must have as many tensors as `teacher`, 1, got 2", lambda: fn.ema_update([zeros(2)], [zeros(2), zeros(2)], 0.5)),
    (r"`policy\[0\]` must have the teacher's shape \(2,\), got \(1,\)", lambda: fn.ema_update([zeros(2)], [zeros(1)], 0.5)),
    (r"`weight` must lie in \[0, 1\], got 1.5", lambda: fn.ema_update([zeros(2)], [zeros(2)], 1.5)),
    (r"`weight` must lie in \[0, 1\], got nan", lambda: fn.ema_update([zeros(2)], [zeros(2)], NAN)),
    (r"each tensor once \(tied weights too\), got one of them twice", lambda: fn.ema_update([TIED, TIED], [ones(2), ones(2)], 0.5)),
    (r"`cap` must be >= 1, got 0\.5", lambda: fn.importance_weights(PAIR, PAIR, YES, 0.5)),
    ("`mode` must be 'token_truncate', .* got 'mask'", lambda: fn.importance_weights(PAIR, PAIR, YES, mode="mask")),
    (r"`floor` must be in \[0, 1\], got 1.5", lambda: fn.importance_weights(PAIR, PAIR, YES, floor=1.5)),
    (r"`floor` must be in \[0, 1\], got nan", lambda: fn.importance_weights(PAIR, PAIR, YES, floor=NAN)),
    ("sampling_logp", lambda: fn.sampling_gap(PAIR, zeros(1, 3), YES)),
    ("`freedom` must be >= 1, got 0", lambda: fn.student_quantile(0)),
    (r"`mask` must be bool \(1,\), got torch.float32 \(2,\)", lambda: fn.kl_divergence(zeros(1), zeros(1), mask=zeros(2))),
    ("`estimator` must be 'k1', 'k2' or 'k3', got 'k4'", lambda: fn.kl_divergence(zeros(1), zeros(1), "k4")),
    (r"`ref_logp` must have the shape of `logp`, \(2,\), got \(1,\)", lambda: fn.kl_divergence(zeros(2), zeros(1))),
    ("`temperature` must be > 0, got 0", lambda: fn.chunked_logp_from_hidden(PAIR, zeros(3, 2), ONE, temperature=0)),
    (r"`targets` must be \(1,\)", lambda: fn.chunked_logp_from_hidden(PAIR, zeros(3, 2), zeros(2, dtype=INT))),
    ("`chunk_size` must be > 0", lambda: fn.chunked_logp_from_hidden(PAIR, zeros(3, 2), ONE, chunk_size=0)),
    ("`loss_type` must be 'clip' or 'cispo', got 'grpo'", lambda: clipped(loss_type="grpo")),
    ("`importance_sampling_level` must be 'token' or 'sequence'", lambda: clipped(importance_sampling_level="batch")),
    ("`dual_clip` must be > 1 or None, and None with cispo", lambda: clipped(loss_type="cispo", dual_clip=3.0)),
    ("`clip_low`", lambda: clipped(clip_low=1.5)),
    ("`clip_high`", lambda: clipped(clip_high=-0.1)),
    ("`dual_clip`", lambda: clipped(dual_clip=1.0)),
    ("`aggregation` must be 'sequence_mean', 'token_mean' or 'fixed_length', got 'mean'", lambda: clipped(aggregation="mean")),
    ("`fixed_length`", lambda: clipped(aggregation="fixed_length")),
    (r"`soft_punish_cache` must be in \[1, `max_completion_len` = 10\], got 0", lambda: fn.soft_overlong_punishment(ONE, 10, 0)),
    (r"`soft_punish_cache` must be in \[1, `max_completion_len` = 10\], got 11", lambda: fn.soft_overlong_punishment(ONE, 10, 11)),
    (r"`mix` must be in \[0, 1\], got 1.5", lambda: fn.focal_weights(PAIR, PAIR, mix=1.5)),
    ("`power` must be >= 0", lambda: fn.informed_weights(PAIR, PAIR, power=-1)),
    (r"`share` must be in \[0, 1\)", lambda: fn.rubric_dropout(PAIR, YES, share=1.0)),
    ("`least` >= 1", lambda: fn.rubric_dropout(PAIR, YES, least=0)),
    ("`margin` must be > 0", lambda: fn.patience_step(*zeros(3, 1), ones(1).bool(), margin=0.0)),
    (r"`confusion` must be \[..., 2, 2\], got \(3, 3\)", lambda: fn.informedness_of_confusion(ones(3, 3))),
    (r"`repeated` must be \[P, G, C\] = \(1, 2, 3\)", lambda: fn.disagreement_sums(zeros(1, 2, 3), zeros(1, 2, 2))),
    *[("`temperature` must be > 0", lambda t=t: fn.inverse_reward_projection(SCORES, PAIR, temperature=t)) for t in (0.0, -1.0, NAN)],
    *[("C = 4", lambda b=b: fn.focal_weights(zeros(1, 4), ones(1, 4), bounds=b)) for b in ((0.3, 1.0), (0.0, 0.2), (0.6, 0.4))],
    ("`gamma` must be >= 0, got -1", lambda: fn.focal_weights(PAIR, ones(1, 2), gamma=-1)),
    ("`epsilon` must be >= 0, got -1", lambda: fn.focal_weights(PAIR, ones(1, 2), epsilon=-1)),
    (r"`weights` must be \[P, C\] = \(1, 2\), got \(1, 3\)", lambda: fn.focal_weights(PAIR, ones(1, 3))),
])  # fmt: skip
def test_values(message, call):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("message", "call"), [
    (r"`valid` must be torch.bool", lambda: fn.rloo_advantage(PAIR, ones(1, 2))),
    (r"`required` must be torch\.bool", lambda: fn.gated_reward(SCORES, PAIR, required=ones(1, 2))),
    ("`answers` must be a sequence of answers, got one string '12'", lambda: fn.majority_vote("12")),
    (r"`answers\[1\]` must be a string or None, got int", lambda: fn.majority_vote(["1", 2])),
    (r"`teacher\[0\]` must be float32.*got torch.bfloat16", lambda: fn.ema_update([zeros(2, dtype=torch.bfloat16)], [zeros(2)], 0.5)),
    ("must be float32", lambda: fn.ema_update([zeros(2, dtype=torch.float16)], [zeros(2)], 0.5)),
    (r"`policy\[0\]` must be floating point, got torch.int64", lambda: fn.ema_update([zeros(2)], [zeros(2, dtype=INT)], 0.5)),
])  # fmt: skip
def test_types(message, call):
    with pytest.raises(TypeError, match=message):
        call()
