"""Log-probabilities by liger-kernel, which needs no GPU for this; skipped where it is not installed."""

import copy
import sys

import pytest
import torch

from lightning_focal.models import Sizes, expect_liger, response_logp, response_measures
from lightning_focal.models import liger as module
from lightning_focal.modules import Update

from .test_logprobs import MIXED, batch


@pytest.fixture
def liger():
    pytest.importorskip("liger_kernel", reason="the extra `liger` is not installed")


def closely(got, expected):
    """To 1e-5 of the largest."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_log_softmax(liger, with_bias, temperature):
    """A vocabulary that is gone over in two parts."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 16, generator=draw), torch.randn(4500, 16, generator=draw)
    bias = torch.randn(4500, generator=draw) if with_bias else None
    targets = torch.tensor([0, 1, 4095, 4096, 4499, 7, 7, 300, 4400])
    upstream = torch.randn(9, generator=draw)
    grads, values = [], []
    for fused in (True, False):
        given = [None if t is None else t.clone().requires_grad_() for t in (hidden, weight, bias)]
        if fused:
            logp = module.liger_logp(given[0], given[1], targets, temperature, given[2])
        else:
            logits = torch.nn.functional.linear(*given) / temperature
            logp = torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]
        (logp * upstream).sum().backward()
        values.append(logp.detach())
        grads.append([t.grad for t in given if t is not None])
    closely(*values)
    for got, expected in zip(*grads, strict=True):
        closely(got, expected)


def test_nothing_in_nothing_out(liger):
    weight = torch.ones(5, 4, requires_grad=True)
    logp = module.liger_logp(torch.ones(0, 4), weight, torch.zeros(0, dtype=torch.int64))
    assert logp.shape == (0,)
    logp.sum().backward()
    assert not weight.grad.any()


def test_autocast_lowers_the_product(liger):
    hidden, weight = torch.full((1, 8), 1 + 2**-10), torch.eye(4, 8) * 64
    targets = torch.tensor([0])
    exact = module.liger_logp(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        lower = module.liger_logp(hidden, weight, targets)
    assert lower.dtype == exact.dtype == torch.float32
    assert lower.equal(module.liger_logp(hidden.bfloat16(), weight, targets))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_policy_gets_the_same_values_and_gradients(liger, tiny, packed):
    data = batch(MIXED)
    sizes = Sizes.of(data[1], data[3]) if packed else None
    values, grads = [], []
    for fused in ("liger", None):
        model = copy.deepcopy(tiny[0])
        logp = response_logp(model, *data, temperature=0.7, sizes=sizes, fused=fused)
        (logp * torch.linspace(-1, 1, logp.numel()).reshape(logp.shape)).sum().backward()
        values.append(logp.detach())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert values[1].abs().max() > 1
    closely(*values)
    closely(*grads)


def test_it_makes_no_measures(tiny):
    with pytest.raises(ValueError, match="log-probabilities alone"):
        response_measures(tiny[0], *batch(MIXED), ["entropy"], fused="liger")


def test_without_it_the_key_is_named(monkeypatch):
    module._selected_logp.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "liger_kernel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ValueError, match=r"`update.fused_logp` = 'liger' needs liger-kernel: pip install"):
        Update(fused_logp="liger")
    with pytest.raises(ValueError, match="must be 'liger' or null"):
        Update(fused_logp="other")


def test_another_interface_is_refused(liger, monkeypatch):
    from liger_kernel.chunked_loss.fused_linear_ppo import LigerFusedLinearPPOBase

    module._selected_logp.cache_clear()
    monkeypatch.setattr(LigerFusedLinearPPOBase, "chunk_forward", staticmethod(lambda hidden, weight: hidden))
    with pytest.raises(ValueError, match="has another interface"):
        expect_liger("key")
