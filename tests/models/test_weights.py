import pytest
import torch

from lightning_focal.generation import full_weights
from lightning_focal.models import load_policy
from lightning_focal.models.weights import RolloutCopy
from tests.helpers import adapted

from .architectures import make


@pytest.fixture
def model():
    return load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")[0]


@pytest.fixture
def lora(model):
    return adapted(model)


def test_plain_model_as_it_is(model):
    assert {name: value.data_ptr() for name, value in full_weights(model)} == {
        n: p.data_ptr() for n, p in model.named_parameters()
    }


def test_adapters_that_are_off_are_not_merged(lora):
    with lora.disable_adapter():
        off = dict(full_weights(lora))
    plain, _ = load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")
    assert all(value.equal(plain.get_parameter(name)) for name, value in off.items())


@pytest.mark.parametrize("kind", ["model", "lora"])
def test_copy_is_refreshed_in_place_and_leaves_the_policy_alone(kind, request):
    """Rotary frequencies keep their precision. Adapters are merged under plain names: tests/models/test_lora_matrix.py."""
    policy = request.getfixturevalue(kind)
    before = {name: (p.clone(), p.requires_grad) for name, p in policy.named_parameters()}
    copied = RolloutCopy(policy, torch.bfloat16)
    assert all(p.equal(before[name][0]) and p.requires_grad == before[name][1] for name, p in policy.named_parameters())
    frequencies = [next(value for name, value in one.named_buffers() if "inv_freq" in name) for one in (policy, copied.model)]
    assert frequencies[1].dtype == torch.float32
    assert frequencies[1].equal(frequencies[0])
    places = {name: p.data_ptr() for name, p in copied.model.named_parameters()}
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    copied.refresh(policy)
    assert places == {name: p.data_ptr() for name, p in copied.model.named_parameters()}
    for name, value in full_weights(policy):
        assert copied.model.get_parameter(name).equal(value.bfloat16())
    assert not any("lora" in name for name in places)
    assert not any(p.requires_grad for p in copied.model.parameters())


def test_tied_weights_stay_tied():
    copied = RolloutCopy(make("gemma")[0], torch.bfloat16).model
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
