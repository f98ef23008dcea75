"""GSPO, CISPO, Clip-Cov, the masks and the punishment, against their papers' formulas one token at a time."""

import math

import numpy as np
import pytest
import torch

from lightning_focal import functional as fn
from tests import oracles
from tests.functional.cases import agree, tensors

LOW, HIGH = 0.1, 0.15


def drawn(seed, n=4, t=6, dtype=torch.float64):
    """``(logp, old, advantages, mask)``; one row of one token, one of none."""
    dice = np.random.default_rng(seed)
    logp = -dice.exponential(2.0, (n, t))
    old = logp + dice.normal(0, 0.4, (n, t))
    mask = np.arange(t) < np.array([1, 0, *dice.integers(1, t + 1, n - 2)])[:, None]
    return [torch.tensor(x, dtype=dtype) for x in (logp, old, dice.normal(size=n))] + [torch.tensor(mask)]


def ratios(logp, old, mask, level):
    """eq. 7 of GSPO row by row: the root of the product of the tokens' ratios."""
    out = np.ones_like(logp)
    for i, row in enumerate(mask):
        own = [math.exp(logp[i, t]) / math.exp(old[i, t]) for t in np.flatnonzero(row)]
        for t in np.flatnonzero(row):
            out[i, t] = own[t] if level == "token" else math.prod(own) ** (1 / len(own))
    return out


@pytest.mark.parametrize("level", fn.RATIO_LEVELS)
def test_the_ratio_of_equal_policies_is_one(level):
    logp, _, advantages, mask = drawn(5)
    assert torch.equal(fn.importance_ratio(logp, logp, mask, level), torch.ones_like(logp))
    assert fn.clipped_policy_loss(logp, logp, advantages, mask, 1.0, math.inf, importance_sampling_level=level).isfinite()
    found = fn.policy_statistics(logp, logp, advantages, mask, importance_sampling_level=level)
    assert (float(found["ratio_mean"]), float(found["clip_fraction"]), float(found["old_kl"])) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("level", fn.RATIO_LEVELS)
@pytest.mark.parametrize("loss_type", fn.LOSS_TYPES)
@pytest.mark.parametrize("aggregation", fn.AGGREGATIONS)
def test_losses_are_those_of_the_papers(aggregation, loss_type, level):
    clipped = {"below": 0, "above": 0}
    for seed in range(60):
        given = drawn(seed)
        logp, old, advantages, mask = (x.numpy() for x in given)
        ratio, losses = ratios(logp, old, mask, level), np.zeros_like(logp)
        for i, t in zip(*np.nonzero(mask), strict=True):
            bounded = min(max(ratio[i, t], 1 - LOW), 1 + HIGH)
            clipped["below"] += ratio[i, t] < bounded
            clipped["above"] += ratio[i, t] > bounded
            if loss_type == "cispo":
                losses[i, t] = -bounded * advantages[i] * logp[i, t]
            else:
                losses[i, t] = -min(ratio[i, t] * advantages[i], bounded * advantages[i])
        got = fn.clipped_policy_loss(*given, LOW, HIGH, None, aggregation, None, 9, loss_type, level)
        assert float(got) == pytest.approx(oracles.aggregate(losses, mask, aggregation, 9), abs=1e-9)
        np.testing.assert_allclose(fn.importance_ratio(*given[:2], given[3], level).numpy()[mask], ratio[mask], rtol=1e-9)
    assert min(clipped.values()) > 10


@pytest.mark.parametrize("aggregation", fn.AGGREGATIONS)
def test_gradients_are_those_of_the_papers(aggregation):
    """GSPO eq. 10: ``s A`` times the mean of the response's gradients, where no clip cuts it; CISPO: ``clip(r) A`` at every token."""
    logp, old, advantages, mask = drawn(3)
    for loss_type, level in (("clip", "sequence"), ("cispo", "token"), ("cispo", "sequence")):
        x = logp.clone().requires_grad_()
        fn.clipped_policy_loss(x, old, advantages, mask, LOW, HIGH, None, aggregation, None, 9, loss_type, level).backward()
        ratio, want = ratios(logp.numpy(), old.numpy(), mask.numpy(), level), np.zeros(logp.shape)
        for i, t in zip(*mask.nonzero().T.tolist(), strict=True):
            a, r = float(advantages[i]), ratio[i, t]
            bounded = min(max(r, 1 - LOW), 1 + HIGH)
            passes = loss_type == "cispo" or r * a <= bounded * a
            want[i, t] = -(bounded if loss_type == "cispo" else r) * a * passes
        weights = (
            mask.double().numpy()
            / {
                "token_mean": mask.sum().item(),
                "fixed_length": 9 * mask.any(1).sum().item(),
                "sequence_mean": mask.any(1).sum().item() * mask.sum(1, keepdim=True).clamp_min(1).numpy(),
            }[aggregation]
        )
        np.testing.assert_allclose(x.grad.numpy(), want * weights, atol=1e-12)


@pytest.mark.parametrize("level", fn.RATIO_LEVELS)
@pytest.mark.parametrize("loss_type", fn.LOSS_TYPES)
def test_gradients_are_finite_whatever_stands_at_masked_tokens(loss_type, level):
    """Padding, tokens of invalid rows, and tokens whose advantage a mask has made 0."""
    logp, old, _, mask = drawn(7, dtype=torch.float32)
    expected = logp.clone().requires_grad_()
    advantages = torch.tensor([[1.0], [-1.0], [0.5], [-2.0]]).expand(4, 6).clone()
    advantages[2, 0] = 0.0
    fn.clipped_policy_loss(expected, old, advantages, mask, loss_type=loss_type, importance_sampling_level=level).backward()
    for at_new, at_old in ((-1e30, 0.0), (0.0, -1e30), (-math.inf, 0.0), (math.nan, -math.inf), (1e4, -1e4)):
        x = torch.where(mask, logp, at_new).requires_grad_()
        given = (torch.where(mask, old, at_old), advantages, mask)
        fn.clipped_policy_loss(x, *given, loss_type=loss_type, importance_sampling_level=level).backward()
        torch.testing.assert_close(x.grad, expected.grad)
        found = fn.policy_statistics(x.detach(), *given, loss_type=loss_type, importance_sampling_level=level)
        assert all(value.isfinite() for value in found.values())
    if level == "token":  # 0 times a ratio of infinity
        x = logp.clone().index_put_((torch.tensor([2]), torch.tensor([0])), torch.tensor(500.0)).requires_grad_()
        fn.clipped_policy_loss(x, old, advantages, mask, loss_type=loss_type).backward()
        assert x.grad.isfinite().all()
        assert float(x.grad[2, 0]) == 0.0


def test_statistics_of_cispo_count_both_signs():
    ratio, mask = torch.tensor([[1.5, 0.5, 1.0, 1.1]]), torch.tensor([[True] * 4])
    found = [
        fn.policy_statistics(ratio.log(), torch.zeros(1, 4), torch.tensor([a]), mask, loss_type="cispo") for a in (1.0, -1.0)
    ]
    for one in found:
        assert [float(one[f"clip_{side}fraction"]) for side in ("", "low_", "high_")] == [0.5, 0.25, 0.25]


# -- weights by the sampler's probabilities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", fn.IMPORTANCE_MODES)
def test_weights_of_every_mode_are_those_of_a_loop(mode):
    cap, floor, seen = 1.25, 0.8, {"below": 0, "within": 0, "above": 0}
    for seed in range(40):
        logp, sampled, _, mask = (x.numpy() for x in drawn(seed))
        got = fn.importance_weights(*(torch.tensor(x) for x in (logp, sampled, mask)), cap, mode, floor).numpy()
        for i, row in enumerate(mask):
            own = [math.exp(logp[i, t] - sampled[i, t]) for t in np.flatnonzero(row)]
            for t in range(len(row)):
                weight = 1.0
                if row[t]:
                    weight = own[t] if mode.startswith("token") else math.prod(own)
                    seen["below" if weight < floor else "above" if weight > cap else "within"] += 1
                    outside = weight < floor or weight > cap
                    weight = 0.0 if mode.endswith("mask") and outside else min(max(weight, floor), cap)
                assert got[i, t] == pytest.approx(weight, abs=1e-9)
    assert min(seen.values()) > 10


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_mask_that_masks_nothing_changes_nothing(level):
    logp, sampled, _, mask = drawn(8)
    plain = fn.importance_weights(logp, sampled, mask, math.inf, f"{level}_truncate")
    assert torch.equal(fn.importance_weights(logp, sampled, mask, math.inf, f"{level}_mask"), plain)
    assert torch.equal(fn.importance_weights(logp, logp, mask, 1.0, f"{level}_mask", 1.0), torch.ones_like(logp))


def test_masked_responses_are_finite_in_float32():
    """The product over a long response overflows; its response is masked, or weighs the cap."""
    logp, sampled, mask = torch.zeros(1, 64), torch.full((1, 64), -4.0), torch.arange(64)[None] < 50
    assert fn.importance_weights(logp, sampled, mask, mode="sequence_mask").unique().tolist() == [0.0, 1.0]
    assert fn.importance_weights(logp, sampled, mask, mode="sequence_truncate").unique().tolist() == [1.0, 2.0]


# -- Clip-Cov, punishment ------------------------------------------------------------------------------------------------------------


def test_covariance_is_that_of_numpy():
    """eq. 9: its mean over tokens is NumPy's covariance, whole or from the means of the step."""
    logp, _, advantages, mask = drawn(9)
    at = mask.numpy()
    x, a = logp.numpy()[at], np.broadcast_to(advantages.numpy()[:, None], at.shape)[at]
    whole = fn.token_covariance(logp, advantages, mask)
    assert whole.numpy()[at].mean() == pytest.approx(np.cov(x, a, bias=True)[0, 1], rel=1e-12)
    np.testing.assert_allclose(whole.numpy()[at], (x - x.mean()) * (a - a.mean()), rtol=1e-12)
    assert not whole[~mask].any()
    means = (torch.tensor(x.mean()), torch.tensor(a.mean()))
    part = fn.token_covariance(logp[2:], advantages[2:], mask[2:], means)
    torch.testing.assert_close(part, whole[2:], rtol=1e-12, atol=1e-12)


def test_punishment_is_equation_13():
    for cache in (1, 30, 100):
        for length in range(1, 130):
            want = 0.0 if length <= 100 - cache else (100 - cache - length) / cache if length <= 100 else -1.0
            assert float(fn.soft_overlong_punishment(torch.tensor(length), 100, cache)) == pytest.approx(want, abs=1e-7)


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
