from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_focal import functional as fn
from tests import oracles
from tests.functional.cases import agree, tensors


def sequences(seed, n=4, t=7):
    rng = np.random.default_rng(seed)
    logp, old = -rng.random((n, t)) * 2, -rng.random((n, t)) * 2
    mask = np.arange(t)[None] < rng.integers(0, t + 1, (n, 1))
    return logp, np.where(mask, old, np.nan), rng.normal(size=n), mask


@pytest.mark.parametrize("aggregation", fn.AGGREGATIONS)
def test_with_a_second_clip_the_loss_agrees_with_the_loop(aggregation):
    """Without one: test_losses.py."""
    for seed in range(200):
        logp, old, advantages, mask = sequences(seed)
        per_token = np.zeros_like(logp)
        for n, t in zip(*np.nonzero(mask), strict=True):
            per_token[n, t] = oracles.clipped_token_loss(logp[n, t], old[n, t], advantages[n], 0.2, 0.28, 1.5)
        got = fn.clipped_policy_loss(*tensors(logp, old, advantages, mask), 0.2, 0.28, 1.5, aggregation, fixed_length=9)
        agree(got, oracles.aggregate(per_token, mask, aggregation, length=9), atol=1e-9)


@pytest.mark.parametrize("aggregation", fn.AGGREGATIONS)
def test_micro_batches_add_up_to_the_step(aggregation):
    logp, old, advantages, mask = tensors(*sequences(3))
    options = {"aggregation": aggregation, "fixed_length": 7}
    whole = logp.clone().requires_grad_()
    loss = fn.clipped_policy_loss(whole, old, advantages, mask, **options)
    loss.backward()
    options["normaliser"] = fn.loss_normaliser(mask, aggregation, fixed_length=7)
    for parts in (1, 2, 4):
        split, total = logp.clone().requires_grad_(), torch.zeros(())
        for rows in torch.arange(4).chunk(parts):
            part = fn.clipped_policy_loss(split[rows], old[rows], advantages[rows], mask[rows], **options)
            part.backward()
            total = total + part.detach()
        torch.testing.assert_close(total, loss.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(split.grad, whole.grad, rtol=1e-12, atol=1e-12)


def test_clipping_by_hand():
    old = torch.zeros(4, 1)
    logp = torch.tensor([[1.5], [0.5], [1.5], [0.5]]).log()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    mask = torch.ones(4, 1, dtype=torch.bool)
    losses = [fn.clipped_policy_loss(logp[i : i + 1], old[:1], advantages[i : i + 1], mask[:1]).item() for i in range(4)]
    assert losses == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert fn.clipped_policy_loss(logp[2:3], old[:1], advantages[2:3], mask[:1], dual_clip=1.25).item() == pytest.approx(1.25)


def test_gradient_stops_where_clipped_and_at_old_and_advantages():
    logp = torch.tensor([[1.0, 0.0]], requires_grad=True)
    old, advantages = torch.zeros(1, 2, requires_grad=True), torch.ones(1, requires_grad=True)
    fn.clipped_policy_loss(logp, old, advantages, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert logp.grad.tolist() == [[0.0, -0.5]]
    assert old.grad is None
    assert advantages.grad is None


def test_what_has_no_tokens_does_not_count_and_advantages_may_be_per_token():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    for aggregation in fn.AGGREGATIONS:
        assert fn.masked_aggregate(torch.full((2, 3), float("nan")), nothing, aggregation, fixed_length=3).item() == 0.0
    mask = torch.tensor([[True, True], [False, False]])
    assert fn.masked_aggregate(torch.tensor([[1.0, 3.0], [9.0, 9.0]]), mask, "sequence_mean").item() == 2.0
    assert fn.loss_normaliser(mask, "fixed_length", fixed_length=10).item() == 10.0
    assert fn.clipped_policy_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), mask[:1]).item() == -2.0


def test_statistics_by_hand():
    ratio = torch.tensor([[1.5, 0.5, 1.0, 99.0], [1.5, 0.5, 4.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]] * 2)
    stats = fn.policy_statistics(ratio.log(), torch.zeros(2, 4), torch.tensor([1.0, -1.0]), mask, dual_clip=3.0)
    assert stats["tokens"].item() == 6
    assert stats["ratio_mean"].item() == pytest.approx(9 / 6)
    assert (stats["ratio_max"].item(), stats["ratio_min"].item()) == (pytest.approx(4.0), pytest.approx(0.5))
    assert stats["clip_high_fraction"].item() == pytest.approx(1 / 6)  # first token, A > 0
    assert stats["clip_low_fraction"].item() == pytest.approx(1 / 6)  # fifth token, A < 0
    assert stats["dual_clip_fraction"].item() == pytest.approx(1 / 6)  # ratio 4
    assert stats["clip_fraction"].item() == pytest.approx(3 / 6)
    assert not any(s.requires_grad for s in stats.values())
