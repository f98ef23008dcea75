from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st

from lightning_focal.functional import kl_divergence
from tests.functional.cases import given

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
