import math

import numpy as np
import pytest
import torch

from lightning_focal.functional import importance_weights, sampling_gap


def drawn(seed=0, n=5, t=7):
    dice = np.random.default_rng(seed)
    logp, sampling = (-dice.exponential(2.0, (n, t)) for _ in range(2))
    return logp, sampling, dice.random((n, t)) < 0.7


def loop_weights(logp, sampling, mask, cap):
    weights = np.ones_like(logp)
    for i, j in zip(*np.nonzero(mask), strict=True):
        weights[i, j] = min(math.exp(logp[i, j]) / math.exp(sampling[i, j]), cap)
    return weights


@pytest.mark.parametrize("cap", [1.0, 2.0, 10.0])
def test_weights_are_those_of_a_loop(cap):
    logp, sampling, mask = drawn()
    got = importance_weights(torch.tensor(logp), torch.tensor(sampling), torch.tensor(mask), cap)
    np.testing.assert_allclose(got.numpy(), loop_weights(logp, sampling, mask, cap), rtol=1e-12)
    assert (got.numpy()[mask] == cap).any()
    assert (got.numpy()[mask] < 1).any()


def test_weights_have_no_gradient_and_ignore_padding():
    logp = torch.tensor([[-1.0, 5.0, 0.0]], requires_grad=True)
    sampling = torch.tensor([[-1.0, -torch.inf, torch.nan]])
    got = importance_weights(logp, sampling, torch.tensor([[True, False, False]]))
    assert not got.requires_grad
    assert got.tolist() == [[1.0, 1.0, 1.0]]


def test_gap_is_that_of_a_loop():
    logp, sampling, mask = drawn(1)
    got = sampling_gap(torch.tensor(logp), torch.tensor(sampling), torch.tensor(mask))
    differences = [logp[i, j] - sampling[i, j] for i, j in zip(*np.nonzero(mask), strict=True)]
    assert float(got["mean"]) == pytest.approx(sum(map(abs, differences)) / len(differences))
    assert float(got["max"]) == pytest.approx(max(map(abs, differences)))
    nothing = sampling_gap(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert {name: float(value) for name, value in nothing.items()} == {"mean": 0.0, "max": 0.0, "kl": 0.0}
    assert float(got["kl"]) == pytest.approx(sum(math.exp(d) - 1 - d for d in differences) / len(differences))
