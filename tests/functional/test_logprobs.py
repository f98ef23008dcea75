"""Log-probabilities, estimates of the KL divergence, and weights by the sampler's probabilities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_focal.functional import chunked_logp_from_hidden, importance_weights, kl_divergence, sampling_gap
from tests.functional.cases import given


def plain(logits, targets, temperature):
    return (logits.float() / temperature).log_softmax(-1).gather(-1, targets[..., None])[..., 0]


class Largest(TorchDispatchMode):
    """Remembers the most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor) and "view" not in str(func) and tensor._base is None:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_from_hidden_values_and_gradients_are_the_plain_ones(chunk, masked, with_bias):
    torch.manual_seed(1)
    targets, weight = torch.randint(11, (3, 4)), torch.randn(3, 4)
    mask = torch.rand(3, 4) < 0.6 if masked else None
    keep = torch.ones(3, 4) if mask is None else mask.float()
    parameters = [torch.randn(3, 4, 6), torch.randn(11, 6), torch.randn(11)]
    one, two = ([p.clone().requires_grad_() for p in parameters] for _ in range(2))
    logits = one[0] @ one[1].T + (one[2] if with_bias else 0)
    scaled = logits / 0.8
    logp = plain(logits, targets, 0.8)
    entropy = -(scaled.softmax(-1) * scaled.log_softmax(-1)).sum(-1)
    got_logp, got = chunked_logp_from_hidden(
        two[0], two[1], targets, 0.8, chunk, two[2] if with_bias else None, measures=["entropy", "self_certainty"], mask=mask
    )
    torch.testing.assert_close(got_logp, logp * keep, rtol=1e-5, atol=1e-6)
    certainty = scaled.logsumexp(-1) - scaled.mean(-1) - math.log(11)
    torch.testing.assert_close(got["entropy"], entropy * keep, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["self_certainty"], certainty * keep, rtol=1e-5, atol=1e-6)
    ((logp + 0.3 * entropy - 0.2 * certainty) * weight * keep).sum().backward()
    ((got_logp + 0.3 * got["entropy"] - 0.2 * got["self_certainty"]) * weight).sum().backward()
    for a, b in zip(one, two, strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)


def test_from_hidden_never_holds_all_logits():
    hidden, head = torch.randn(2, 20, 3, requires_grad=True), torch.randn(50, 3, requires_grad=True)
    with Largest() as seen:
        logp, measured = chunked_logp_from_hidden(hidden, head, torch.randint(50, (2, 20)), chunk_size=4)
        logp.sum().backward()
    assert measured == {}
    assert seen.elements <= 4 * 50


def test_from_hidden_with_extreme_logits():
    hidden, head = torch.ones(2, 1), torch.tensor([[1e4], [-1e4]])
    assert chunked_logp_from_hidden(hidden, head, torch.tensor([0, 1]))[0].tolist() == [0.0, -2e4]


def test_from_hidden_with_nothing_to_compute():
    logp, _ = chunked_logp_from_hidden(
        torch.randn(1, 2, 3, requires_grad=True),
        torch.randn(5, 3),
        torch.zeros(1, 2, dtype=torch.int64),
        mask=torch.zeros(1, 2, dtype=torch.bool),
    )
    assert logp.tolist() == [[0.0, 0.0]]


LOGP = st.floats(-20, 0)


@given(LOGP, LOGP)
def test_formulas(logp, ref):
    d = ref - logp
    expected = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}
    for name, value in expected.items():
        got = kl_divergence(torch.tensor([logp], dtype=torch.float64), torch.tensor([ref], dtype=torch.float64), name)
        assert got.item() == pytest.approx(value, rel=1e-9, abs=1e-12)


@given(LOGP, st.floats(-1e-3, 1e-3))
def test_k3_is_never_negative_in_float32(logp, step):
    assert kl_divergence(torch.tensor([logp]), torch.tensor([logp + step])).item() >= 0


def test_where_the_reference_is_far_away_nothing_is_nan():
    logp, ref = torch.tensor([-1.0, -120.0, -120.0], requires_grad=True), torch.tensor([-1.5, -1.0, -1.0])
    mask = torch.tensor([True, False, True])
    for values in (kl_divergence(logp, ref, "k3"), kl_divergence(logp, ref, "k3", mask)):
        (gradient,) = torch.autograd.grad(torch.where(mask, values, 0).sum(), logp)
        assert gradient[1] == 0
        assert gradient[2] < -1e34
        assert bool(torch.isfinite(gradient).all())
        assert gradient[0].item() == pytest.approx(1 - math.exp(-0.5))
    tangent = math.exp(80) * (1 + 119 - 80)
    assert values.tolist() == pytest.approx([math.exp(-0.5) + 0.5 - 1, 0, tangent], rel=1e-5)


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
