"""`update.fused_logp`: the losses and gradients of our own output layer; skipped where liger-kernel is not installed."""

from dataclasses import replace

import pytest
import torch

from lightning_focal.callbacks import CollapseWatch
from lightning_focal.models import load_policy
from lightning_focal.modules import FrozenReference, Update
from lightning_focal.modules.update import sequence_logp
from tests.modules.helpers import column, metrics
from tests.modules.test_update import TEMPERATURE, gradients, policy, sequences  # noqa: F401 - fixtures

pytest.importorskip("liger_kernel", reason="the extra `liger` is not installed")

UPDATES = {
    "plain": {},
    "kl": {"kl_coef": 0.3},
    "k1": {"kl_coef": 0.3, "kl_estimator": "k1", "loss_aggregation": "sequence_mean"},
    "clips": {"clip_low": 0.05, "clip_high": 0.1, "dual_clip": 1.2, "loss_aggregation": "fixed_length", "fixed_length": 20},
    "cap": {"importance_cap": 1.1},
}


@pytest.mark.parametrize("kind", UPDATES)
def test_losses_and_gradients_are_ours(policy, sequences, kind):  # noqa: F811
    update = Update(**UPDATES[kind])
    old = sequence_logp(policy[0], sequences, TEMPERATURE, 8)
    draw = torch.Generator().manual_seed(0)
    noise, gap = (0.3 * torch.randn(old.shape, generator=draw) for _ in range(2))
    given = replace(sequences, old_logp=old + noise, sampling_logp=old + noise + gap)
    if update.kl_coef:
        other, _ = load_policy("random:tiny-llama?hidden=32&layers=2&seed=4&std=0.2")
        ref, fused = (sequence_logp(other, sequences, TEMPERATURE, 8, fused=fused) for fused in (None, "liger"))
        torch.testing.assert_close(fused, ref, atol=1e-5, rtol=0)
        given = replace(given, ref_logp=ref)
    (losses, grads), (fused_losses, fused_grads) = (
        gradients(policy[0], given, replace(update, fused_logp=fused)) for fused in (None, "liger")
    )
    largest = max(float(grad.abs().max()) for grad in grads.values())
    assert largest > 1e-3
    for name, grad in grads.items():
        assert float((grad - fused_grads[name]).abs().max()) <= 1e-5 * largest, name
    for name, loss in losses.items():
        assert torch.allclose(loss, fused_losses[name], atol=1e-6), name


def test_a_run_has_the_same_numbers_and_no_entropy(run_tiny):
    runs = {}
    for fused in (None, "liger"):
        update = Update(epochs=2, kl_coef=0.1, fused_logp=fused)
        runs[fused] = run_tiny(None, CollapseWatch(), folder=str(fused), update=update, reference=FrozenReference())
    ours, theirs = (metrics(run.folder)[0].keys() for run in runs.values())
    assert ours - theirs == {"train/policy/entropy"}
    for name in ("train/loss/policy", "train/loss/total", "train/policy/kl", "train/policy/ratio_mean", "train/policy/grad_norm"):
        mine, other = (column(run.folder, name) for run in runs.values())
        assert other == pytest.approx(mine, rel=1e-3, abs=1e-5), name
