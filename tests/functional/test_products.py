import pytest
import torch
import torch.nn.functional as F

from lightning_focal.functional import linear, onednn_products, prefers_onednn
from lightning_focal.functional import products as module


@pytest.fixture
def preferred(monkeypatch):
    """As on a processor where oneDNN is preferred; elsewhere the switch has no effect, which is as good."""
    if not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"):
        pytest.skip("this torch has no switch")
    if getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)():
        pytest.skip("the switch would allow bfloat16 here")
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 7)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_are_those_of_torch(preferred, shape, with_bias):
    torch.manual_seed(0)
    ours = [torch.randn(shape), torch.randn(5, 7), torch.randn(5) if with_bias else None]
    theirs = [None if t is None else t.clone().requires_grad_() for t in ours]
    ours = [None if t is None else t.requires_grad_() for t in ours]
    found, expected = linear(*ours), F.linear(*theirs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weight = torch.randn(expected.shape)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        if one is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert not linear(*ours).requires_grad


def test_frozen_weights_get_no_gradient(preferred):
    hidden, weight = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
    linear(hidden, weight).sum().backward()
    torch.testing.assert_close(hidden.grad, weight.sum(0).expand(2, 3))
    assert weight.grad is None


def test_switch_is_put_back(preferred):
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    with onednn_products(torch.zeros(1)):
        assert switch.fp32_precision == "bf16"
    assert switch.fp32_precision == before
    with pytest.raises(RuntimeError), onednn_products(torch.zeros(1)):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert switch.fp32_precision == before
    with onednn_products(torch.zeros(1, dtype=torch.float64)):
        assert switch.fp32_precision == before


def test_large_products_are_float32_where_it_is_preferred():
    if not prefers_onednn():
        pytest.skip("not preferred on this processor")
    torch.manual_seed(0)
    for rows, inner, columns in ((1, 64, 2048), (64, 576, 1536), (700, 256, 688)):
        left, right = torch.randn(rows, inner), torch.randn(columns, inner)
        exact = left.double() @ right.double().T
        assert float((linear(left, right) - exact).abs().max()) < 1e-5 * float(exact.abs().max())
