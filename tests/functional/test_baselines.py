"""What Focal Reward is compared with: GDPO, GD2PO, DVAO, RVPO, SAW, MO-GRPO, DIVA, POW3R, SA-MRPO, RRT, worst-of, gates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_focal import functional as fn
from tests import oracles
from tests.functional.cases import agree, batches, given, groups, rows, tensors


def pow3r(scores, weights, mask=None):
    """The whole rule on one batch, the criteria in two categories by the size of their weight."""
    factors = fn.pow3r_factors(scores, weights, mask, categories=(weights > 0.3).long() if weights.shape[1] > 1 else None)
    return fn.pow3r_weights(fn.base_weights(weights, None if mask is None else mask.any(1)), factors)


def rrt(scores, weights, mask=None):
    """Abilities under the difficulties of the batch, a column a name."""
    difficulty = fn.probit_difficulty(fn.criterion_moments(scores, mask)).expand(len(weights), -1)[:, : weights.shape[1]]
    return fn.item_response_reward(scores, weights, mask, difficulty=difficulty)


ADVANTAGES = [fn.gdpo_advantage, fn.dvao_advantage, fn.softmin_advantage, fn.gd2po_advantage]
WEIGHTS = [fn.saw_weights, fn.mo_grpo_weights, fn.diva_weights, fn.sa_mrpo_weights, pow3r]
EVERYTHING = [*ADVANTAGES, *WEIGHTS, fn.worst_of_reward, rrt]
HALF = torch.tensor([[0.5, 0.5]])


def test_gdpo_counts_what_was_judged_on_something_that_weighs():
    # z = +-0.5 / sqrt(0.5) = +-0.707107, whose unbiased std is 1; nothing of the second prompt weighs. With a mask: tests/rewards
    advantage = fn.gdpo_advantage(torch.tensor([[[1.0], [0.0]]] * 2), torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(advantage, torch.tensor([[0.707107, -0.707107], [0.0, 0.0]]), rtol=0, atol=2e-6)


def test_2_000_ragged_cases_agree_with_the_loops():
    rng = np.random.default_rng(0)
    for number, (scores, weights, mask) in enumerate(batches(seed=7)):
        s, b, m = tensors(scores, weights, mask)
        k = (0.1, 1.0, 5.0)[number % 3]
        required, categories = rng.random(weights.shape) < 0.3, rng.integers(0, 3, weights.shape)
        got = {
            "z": fn.group_zscores(s, m),
            "dvao": fn.dvao_advantage(s, b, m),
            "softmin": fn.softmin_advantage(s, b, m, k=k),
            "weighted": fn.softmin_advantage(s, b, m, k=k, weighted=True),
            "worst": fn.worst_of_reward(s, b, m),
            "gate": fn.gated_reward(s, b, m, required=torch.from_numpy(required)),
            "mo_grpo": fn.mo_grpo_weights(s, b, m),
            "diva": fn.diva_weights(s, b, m, epsilon=0.02),
            "pow3r": fn.pow3r_factors(s, b, m, torch.from_numpy(categories), 0.5, (0.6, 1.4), 1e-3),
            "pow3r_weights": fn.pow3r_weights(b, fn.pow3r_factors(s, b, m), torch.from_numpy(categories)),
        }
        case = (scores, weights, mask)
        expected = {
            "z": rows(oracles.zscores, scores, mask),
            "dvao": rows(oracles.dvao, *case),
            "softmin": rows(lambda s, m: oracles.softmin(s, m, k), scores, mask),  # noqa: B023
            "weighted": rows(lambda s, w, m: oracles.softmin(s, m, k, w), *case),  # noqa: B023
            "worst": rows(oracles.worst_of, scores, mask),
            "gate": rows(oracles.gated, *case, required),
            "mo_grpo": rows(oracles.mo_grpo, *case),
            "diva": rows(lambda *row: oracles.diva(*row, 0.02), *case),
            "pow3r": rows(lambda *row: oracles.pow3r_factors(*row, low=0.6, high=1.4), *case, categories),
        }
        factors = rows(lambda *row: oracles.pow3r_factors(*row, np.zeros(5)), *case)
        expected["pow3r_weights"] = rows(oracles.pow3r_weights, weights, factors, categories)
        for name, value in expected.items():
            agree(got[name], value, name)


def test_200_ragged_batches_agree_with_the_loops():
    for scores, weights, mask in batches(seed=8, batches=2):
        for start in range(0, 500, 5):
            loop = [x[start : start + 5] for x in (scores, weights, mask)]
            case = tensors(*loop)
            assert np.abs(fn.gdpo_advantage(*case).numpy() - oracles.gdpo(*loop)).max() < 1e-6
            assert np.abs(fn.saw_weights(*case).numpy() - oracles.saw(*loop)).max() < 1e-6
            assert np.abs(fn.sa_mrpo_weights(*case, gamma=0.7).numpy() - oracles.sa_mrpo(*loop, gamma=0.7)).max() < 1e-6
            assert np.abs(fn.gd2po_advantage(*case, agreement=0.4).numpy() - oracles.gd2po(*loop, agreement=0.4)).max() < 1e-6


@pytest.mark.parametrize("long", [False, True])
def test_abilities_agree_with_bisection(long):
    rng = np.random.default_rng(9)
    scores, weights, mask = next(batches(seed=9, prompts=200))
    if long:  # 64 criteria, all met, none, or some: the farthest from where the search begins
        scores, weights = (
            np.stack([np.ones((3, 64)), np.zeros((3, 64)), rng.random((3, 64)) < 0.1], 1).astype(float),
            np.ones((3, 64)),
        )
        mask = np.full(scores.shape, True)
    difficulty = rng.normal(0, 2, weights.shape)
    got = fn.item_response_reward(*tensors(scores, weights, mask), difficulty=torch.from_numpy(difficulty))
    agree(got, rows(oracles.item_response, scores, weights, mask, difficulty))


@pytest.mark.parametrize("function", [*EVERYTHING, fn.inverse_reward_projection, fn.weighted_reward])
def test_precision_and_errors(function):
    for dtype in (torch.bfloat16, torch.float16):
        scores, weights = torch.rand(2, 4, 3).to(dtype).requires_grad_(), torch.rand(2, 3).to(dtype)
        out = function(scores, weights)
        assert out.dtype == torch.float32
        assert function is not fn.inverse_reward_projection or not out.requires_grad
        torch.testing.assert_close(out, function(scores.float(), weights.float()), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"`scores` must be \[P, G, C\], got \(2, 3\)"):
        function(torch.rand(2, 3), torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"`weights` must be \[P, C\] = \(1, 3\), got \(1, 2\)"):
        function(torch.rand(1, 2, 3), torch.rand(1, 2))
    with pytest.raises(TypeError, match=r"`mask` must be torch\.bool"):
        function(torch.rand(1, 2, 3), torch.rand(1, 3), torch.ones(1, 2, 3))


@given(groups(judged=True))
def test_softmin_between_minimum_and_mean(case):
    scores, weights, _ = case
    z = fn.group_zscores(scores)
    torch.testing.assert_close(fn.softmin_advantage(scores, weights, k=0), z.mean(-1))
    torch.testing.assert_close(fn.softmin_advantage(scores, weights, k=1e-9), z.mean(-1), rtol=0, atol=1e-7)
    torch.testing.assert_close(fn.softmin_advantage(scores, weights, k=float("inf")), z.amin(-1))
    torch.testing.assert_close(fn.softmin_advantage(scores, weights, k=1e6), z.amin(-1), rtol=0, atol=1e-5)


def test_gdpo_and_saw_pool_processes():
    rng = np.random.default_rng(1)
    s, b, m = tensors(*oracles.ragged_batch(rng, 8))
    halves = [(s[i], b[i], m[i]) for i in (slice(0, 4), slice(4, 8))]
    moments = sum(fn.batch_moments(fn.gdpo_advantage(*half, batch_scale=False), half[2].any(-1)) for half in halves)
    torch.testing.assert_close(
        torch.cat([fn.gdpo_advantage(*half, moments=moments) for half in halves]), fn.gdpo_advantage(s, b, m)
    )
    moments = sum(fn.criterion_moments(half[0], half[2]) for half in halves)
    torch.testing.assert_close(torch.cat([fn.saw_weights(*half, moments=moments) for half in halves]), fn.saw_weights(s, b, m))


def test_saw_by_name_and_without_variation():
    scores, half = torch.tensor([[[1.0, 1.0]], [[0.5, 0.0]]]), HALF.expand(2, 2)
    index = torch.tensor([[0, 1], [1, 0]])  # name 0: 1 and 0, name 1: 1 and 0.5
    torch.testing.assert_close(fn.saw_weights(scores, half, index=index, n=2), torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    assert fn.saw_weights(scores, half, index=torch.tensor([[0, -1], [0, -1]]), n=1).tolist() == [[1.0, 0.0]] * 2
    for constant in (torch.ones(1, 3, 2), torch.zeros(1, 3, 2)):
        assert fn.saw_weights(constant, torch.tensor([[0.25, 0.75]])).tolist() == [[0.25, 0.75]]


def test_gates_and_worst():
    scores, required = torch.tensor([[[0.0, 1.0], [1.0, 0.5]]]), torch.tensor([[True, False]])
    assert fn.gated_reward(scores, HALF, required=required).tolist() == [[0.0, 0.75]]
    assert fn.gated_reward(scores, HALF, required=~required & required).tolist() == [[0.5, 0.75]]
    judged = torch.tensor([[[False, True], [True, True]]])
    assert fn.gated_reward(scores, HALF, judged, required=required).tolist() == [[1.0, 0.75]]
    assert fn.worst_of_reward(torch.tensor([[[0.0, 0.5]]]), torch.tensor([[0.0, 1.0]])).tolist() == [[0.5]]  # no weight, no part


@given(groups(judged=True))
def test_what_the_rules_have_in_common(case):
    scores, weights, mask = case
    torch.testing.assert_close(fn.gd2po_advantage(scores, weights, agreement=0.0), fn.gdpo_advantage(scores, weights))
    torch.testing.assert_close(fn.sa_mrpo_weights(scores, weights, gamma=0.0), weights)
    torch.testing.assert_close(fn.pow3r_weights(weights, fn.pow3r_factors(scores, weights, strength=0.0)), weights)
    for function in (fn.mo_grpo_weights, fn.diva_weights, pow3r):
        torch.testing.assert_close(function(scores, weights, mask).sum(-1), torch.ones(len(weights), dtype=scores.dtype))
    # A sum of scores over their spread is the sum of z-scores, up to the scale of the group.
    centred = fn.group_advantage((scores * fn.mo_grpo_weights(scores, weights)[:, None]).sum(-1), scale="none")
    summed = fn.gdpo_advantage(scores, weights, batch_scale=False, epsilon=0.0)
    scale = (summed * summed).sum(-1, keepdim=True) / (centred * summed).sum(-1, keepdim=True)
    torch.testing.assert_close(torch.where(scale.isfinite(), centred * scale, summed), summed, rtol=1e-6, atol=1e-6)
