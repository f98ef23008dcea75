"""GSPO, CISPO and Clip-Cov beside verl's own functions, which the authors of Clip-Cov wrote for it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("ray")

from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import ActorConfig

from lightning_focal.modules import Update
from lightning_focal.modules.loss import grpo_loss, step_normaliser, without_covariant
from tests.modules.test_update import Alone, covariant_rows

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]
CLIPS = {"clip_low": 0.2, "clip_high": 0.28}
CASES = {
    "vanilla": (CLIPS | {"dual_clip": 3.0}, "token-mean"),
    "gspo": (
        {"importance_sampling_level": "sequence", "clip_low": 0.05, "clip_high": 0.08, "loss_aggregation": "sequence_mean"},
        "seq-mean-token-mean",
    ),
    "cispo": (CLIPS | {"loss_type": "cispo"}, "token-mean"),
    # as many may be left out as there are candidates, so that both leave out all of them
    "clip_cov": (CLIPS | {"clip_cov_ratio": 0.9, "clip_cov_bounds": (0.5, 2.0)}, "token-mean"),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", CASES)
def test_losses_and_gradients_are_those_of_verl(mode, seed):
    options, aggregation = CASES[mode]
    update = Update(**options)
    rows, logp = covariant_rows(seed)
    rows = replace(rows, old_logp=rows.old_logp.nan_to_num(), valid=torch.ones(len(rows), dtype=torch.bool))
    limits = {"clip_ratio": 0.2, "clip_ratio_low": update.clip_low, "clip_ratio_high": update.clip_high}
    limits |= {"clip_ratio_c": update.dual_clip or 3.0}
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **limits)
    if mode == "clip_cov":
        named = SimpleNamespace(clip_cov_ratio=0.9, clip_cov_lb=0.5, clip_cov_ub=2.0)
        config = SimpleNamespace(policy_loss=named, global_batch_info={}, **limits)
        rows = without_covariant(rows, logp, update, 0, Alone())
        assert rows.left_out.any()
    x, y = logp.clone().requires_grad_(), logp.clone().requires_grad_()
    ours, watched = grpo_loss(rows, x, update, step_normaliser(rows, update))
    mask = rows.response_mask.float()
    advantages = rows.advantages[:, None].expand_as(mask).clone()
    theirs, metrics = get_policy_loss_fn(mode)(rows.old_logp, y, advantages, mask, aggregation, config)
    ours.backward()
    theirs.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-7)
    if mode == "clip_cov":
        assert float(watched["clip_cov_fraction"]) == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)
