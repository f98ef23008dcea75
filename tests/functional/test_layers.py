import pytest
import torch
import torch.nn.functional as F

from lightning_focal.functional import gated_mlp, rms_norm, rotate


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def plain_norm(hidden, weight, epsilon):
    return hidden / (hidden.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight


def plain_rotation(states, cos, sin):
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin


def plain_mlp(hidden, gate, up, down):
    return F.linear(F.silu(F.linear(hidden, gate)) * F.linear(hidden, up), down)


def angles(rows, dim):
    half = drawn(rows, 1, dim // 2, seed=9).detach()
    return torch.cat([half, half], -1)


CASES = {
    "norm": (rms_norm, plain_norm, (drawn(2, 5, 8), drawn(8, seed=1), 1e-5)),
    "norm of zeros": (rms_norm, plain_norm, (torch.zeros(3, 8).requires_grad_(), drawn(8, seed=1), 1e-5)),
    "rotation": (rotate, plain_rotation, (drawn(5, 3, 8), angles(5, 8).cos(), angles(5, 8).sin())),
    "mlp": (gated_mlp, plain_mlp, (drawn(2, 7, 6), drawn(10, 6, seed=1), drawn(10, 6, seed=2), drawn(6, 10, seed=3))),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_plain_ones(case):
    lean, plain, inputs = CASES[case]
    found, expected = lean(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    leaves = [t for t in inputs if torch.is_tensor(t) and t.requires_grad]
    weights = torch.linspace(-1, 2, found.numel()).reshape(found.shape)
    gradients, wanted = (torch.autograd.grad((made * weights).sum(), leaves) for made in (found, expected))
    for one, other in zip(gradients, wanted, strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * max(float(other.abs().max()), 1.0)


@pytest.mark.parametrize("case", ["norm", "mlp"])
def test_frozen_weights_and_frozen_inputs_get_no_gradient(case):
    lean, plain, inputs = CASES[case]
    for kept in [i for i, t in enumerate(inputs) if torch.is_tensor(t)]:
        given = [t.detach().requires_grad_(i == kept) if torch.is_tensor(t) else t for i, t in enumerate(inputs)]
        lean(*given).square().sum().backward()
        expected = given[kept].grad
        given[kept].grad = None
        plain(*given).square().sum().backward()
        torch.testing.assert_close(expected, given[kept].grad, atol=1e-4, rtol=1e-4)
        assert all(not torch.is_tensor(t) or t.grad is None for i, t in enumerate(given) if i != kept)


def test_lower_precision_turns_in_the_precision_of_the_angles():
    states, cos, sin = drawn(5, 3, 8).detach().bfloat16().requires_grad_(), angles(5, 8).cos(), angles(5, 8).sin()
    found = rotate(states, cos, sin)
    torch.testing.assert_close(found, plain_rotation(states.float(), cos, sin))
    found.sum().backward()
    assert states.grad.dtype == torch.bfloat16
