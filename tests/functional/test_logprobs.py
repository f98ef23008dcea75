from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_focal.functional import chunked_logp_from_hidden


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
