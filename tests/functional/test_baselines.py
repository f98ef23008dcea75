"""What Focal Reward is compared with: GDPO, DVAO, RVPO, SAW, worst-of, gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.functional import (
    batch_moments,
    criterion_moments,
    dvao_advantage,
    gated_reward,
    gdpo_advantage,
    group_zscores,
    saw_weights,
    softmin_advantage,
    worst_of_reward,
)
from tests import oracles
from tests.functional.cases import batches, groups, tensors

ADVANTAGES = [gdpo_advantage, dvao_advantage, softmin_advantage]
EVERYTHING = [*ADVANTAGES, saw_weights, worst_of_reward]
HALF = torch.tensor([[0.5, 0.5]])


def test_gdpo_by_hand():
    # two rollouts: z = +-0.5 / sqrt(0.5) = +-0.707107 for the first criterion of prompt 1, 0 elsewhere
    # A = +-0.353553, 0, 0; batch std sqrt(2 * 0.125 / 3) = 0.288675
    scores = torch.tensor([[[1.0, 0.5], [0.0, 0.5]], [[1.0, 1.0], [1.0, 1.0]]])
    advantage = gdpo_advantage(scores, torch.full((2, 2), 0.5))
    torch.testing.assert_close(advantage, torch.tensor([[1.224745, -1.224745], [0.0, 0.0]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_gdpo_counts_what_was_judged_on_something_that_weighs(masked):
    # z = +-0.5 / sqrt(0.5) = +-0.707107, whose unbiased std is 1; nothing of the others weighs
    if masked:
        scores, weights = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]), torch.tensor([[1.0, 0.0]])
        mask = torch.tensor([[[True, False], [True, False], [False, True], [False, True]]])
        expected = [[0.707107, -0.707107, 0.0, 0.0]]
    else:
        scores, weights, mask = torch.tensor([[[1.0], [0.0]], [[1.0], [0.0]]]), torch.tensor([[1.0], [0.0]]), None
        expected = [[0.707107, -0.707107], [0.0, 0.0]]
    torch.testing.assert_close(gdpo_advantage(scores, weights, mask), torch.tensor(expected), rtol=0, atol=2e-6)


def test_dvao_softmin_and_saw_by_hand():
    # population std 0.5 and 0.25; sum b std = 0.75 * 0.5 + 0.25 * 0.25 = 0.4375; A_1 = (0.75 * 0.5 - 0.25 * 0.25) / 0.4375
    advantage = dvao_advantage(torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]), torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(advantage, torch.tensor([[0.714286, -0.714286]]), rtol=0, atol=1e-6)
    z = 0.5 / (math.sqrt(0.5) + 1e-6)
    advantage = softmin_advantage(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64), HALF.double(), k=2.0)
    assert advantage.tolist()[0] == pytest.approx([-math.log((math.exp(-2 * x) + 1) / 2) / 2 for x in (z, -z)])
    # means 0.5 and 0.75, population std 0.5 and 0.25: CV 1 and 1/3; b (0.2, 0.8): 0.2 and 0.266667
    w = saw_weights(torch.tensor([[[1.0, 1.0]], [[0.0, 0.5]]]), torch.tensor([[0.2, 0.8], [0.5, 0.5]]))
    torch.testing.assert_close(w, torch.tensor([[0.428571, 0.571429], [0.75, 0.25]]), rtol=0, atol=1e-6)


def test_10_000_ragged_cases_agree_with_the_loops():
    rng = np.random.default_rng(0)
    for number, (scores, weights, mask) in enumerate(batches(seed=7)):
        s, b, m = tensors(scores, weights, mask)
        k = (0.1, 1.0, 5.0)[number % 3]
        required = rng.random(weights.shape) < 0.3
        got = {
            "z": group_zscores(s, m),
            "dvao": dvao_advantage(s, b, m),
            "softmin": softmin_advantage(s, b, m, k=k),
            "weighted": softmin_advantage(s, b, m, k=k, weighted=True),
            "worst": worst_of_reward(s, b, m),
            "gate": gated_reward(s, b, m, required=torch.from_numpy(required)),
        }
        for p in range(len(scores)):
            expected = {
                "z": oracles.zscores(scores[p], mask[p]),
                "dvao": oracles.dvao(scores[p], weights[p], mask[p]),
                "softmin": oracles.softmin(scores[p], mask[p], k),
                "weighted": oracles.softmin(scores[p], mask[p], k, weights[p]),
                "worst": oracles.worst_of(scores[p], mask[p]),
                "gate": oracles.gated(scores[p], weights[p], mask[p], required[p]),
            }
            for name, value in expected.items():
                assert np.abs(got[name][p].numpy() - value).max() < 1e-6, name


def test_10_000_ragged_cases_of_the_batch_agree_with_the_loops():
    for scores, weights, mask in batches(seed=8):
        for start in range(0, 500, 5):
            loop = [x[start : start + 5] for x in (scores, weights, mask)]
            case = tensors(*loop)
            assert np.abs(gdpo_advantage(*case).numpy() - oracles.gdpo(*loop)).max() < 1e-6
            assert np.abs(saw_weights(*case).numpy() - oracles.saw(*loop)).max() < 1e-6


@pytest.mark.parametrize("function", EVERYTHING)
@given(case=groups(), seed=st.integers(0, 2**32 - 1))
def test_what_must_hold(function, case, seed):
    scores, weights, mask = case
    out = function(scores, weights, mask)
    assert bool(out.isfinite().all())
    assert function(scores, weights, torch.zeros_like(mask)).abs().sum() == 0
    if function in ADVANTAGES:  # exactly zero without contrast
        assert function(scores[:, :1].expand_as(scores), weights, mask).abs().sum() == 0
        assert function(scores[:, :1], weights, mask[:, :1]).abs().sum() == 0
        assert out[~mask.any(-1)].abs().sum() == 0
    pad = torch.nn.functional.pad
    padded = function(pad(scores, (0, 2, 0, 3), value=float("nan")), pad(weights, (0, 2)), pad(mask, (0, 2, 0, 3)))
    torch.testing.assert_close(padded[:, : out.shape[1]], out, rtol=1e-9, atol=1e-9)
    generator = torch.Generator().manual_seed(seed)
    rollouts, criteria = (torch.randperm(n, generator=generator) for n in scores.shape[1:])
    turned = function(scores[..., criteria], weights[:, criteria], mask[..., criteria])
    torch.testing.assert_close(turned, out[:, criteria] if function is saw_weights else out, rtol=1e-9, atol=1e-9)
    turned = function(scores[:, rollouts], weights, mask[:, rollouts])
    torch.testing.assert_close(turned, out if function is saw_weights else out[:, rollouts], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", EVERYTHING)
def test_precision_and_errors(function):
    scores, weights = torch.rand(2, 4, 3).bfloat16(), torch.rand(2, 3).bfloat16()
    out = function(scores, weights)
    assert out.dtype == torch.float32
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
    z = group_zscores(scores)
    torch.testing.assert_close(softmin_advantage(scores, weights, k=0), z.mean(-1))
    torch.testing.assert_close(softmin_advantage(scores, weights, k=1e-9), z.mean(-1), rtol=0, atol=1e-7)
    torch.testing.assert_close(softmin_advantage(scores, weights, k=float("inf")), z.amin(-1))
    torch.testing.assert_close(softmin_advantage(scores, weights, k=1e6), z.amin(-1), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="`k` must be >= 0, got -1"):
        softmin_advantage(scores, weights, k=-1)


def test_gdpo_and_saw_pool_processes():
    rng = np.random.default_rng(1)
    s, b, m = tensors(*oracles.ragged_batch(rng, 8))
    halves = [(s[i], b[i], m[i]) for i in (slice(0, 4), slice(4, 8))]
    moments = sum(batch_moments(gdpo_advantage(*half, batch_scale=False), half[2].any(-1)) for half in halves)
    torch.testing.assert_close(torch.cat([gdpo_advantage(*half, moments=moments) for half in halves]), gdpo_advantage(s, b, m))
    moments = sum(criterion_moments(half[0], half[2]) for half in halves)
    torch.testing.assert_close(torch.cat([saw_weights(*half, moments=moments) for half in halves]), saw_weights(s, b, m))


def test_saw_by_name_and_without_variation():
    scores, half = torch.tensor([[[1.0, 1.0]], [[0.5, 0.0]]]), HALF.expand(2, 2)
    index = torch.tensor([[0, 1], [1, 0]])  # name 0: 1 and 0, name 1: 1 and 0.5
    torch.testing.assert_close(saw_weights(scores, half, index=index, n=2), torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    assert saw_weights(scores, half, index=torch.tensor([[0, -1], [0, -1]]), n=1).tolist() == [[1.0, 0.0]] * 2
    with pytest.raises(ValueError, match="`n`, the number of names"):
        saw_weights(scores, half, index=index)
    for constant in (torch.ones(1, 3, 2), torch.zeros(1, 3, 2)):
        assert saw_weights(constant, torch.tensor([[0.25, 0.75]])).tolist() == [[0.25, 0.75]]


def test_gates_and_worst():
    scores, required = torch.tensor([[[0.0, 1.0], [1.0, 0.5]]]), torch.tensor([[True, False]])
    assert gated_reward(scores, HALF, required=required).tolist() == [[0.0, 0.75]]
    assert gated_reward(scores, HALF, required=~required & required).tolist() == [[0.5, 0.75]]
    judged = torch.tensor([[[False, True], [True, True]]])
    assert gated_reward(scores, HALF, judged, required=required).tolist() == [[1.0, 0.75]]
    with pytest.raises(TypeError, match=r"`required` must be torch\.bool"):
        gated_reward(scores, HALF, required=torch.ones(1, 2))
    assert worst_of_reward(torch.tensor([[[0.0, 0.5]]]), torch.tensor([[0.0, 1.0]])).tolist() == [[0.5]]  # no weight, no part
