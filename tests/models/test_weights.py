import pytest
import torch

from lightning_focal.generation import full_weights
from lightning_focal.models import load_policy
from lightning_focal.models.weights import RolloutCopy
from tests.helpers import adapted

from .architectures import make

IDS = torch.tensor([[5, 60, 70, 8]])


@pytest.fixture
def model():
    return load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")[0]


@pytest.fixture
def lora(model):
    return adapted(model)


def test_plain_model_as_it_is(model):
    assert {name: id(p) for name, p in model.named_parameters()}.keys() == dict(full_weights(model)).keys()
    assert all(value.equal(model.get_parameter(name)) for name, value in full_weights(model))


def test_adapters_are_merged_under_plain_names(lora):
    plain, _ = load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")
    expected = lora(IDS).logits
    assert not torch.allclose(plain(IDS).logits, expected, atol=1e-2)
    missing = plain.load_state_dict(dict(full_weights(lora)), strict=False)
    assert missing.missing_keys == missing.unexpected_keys == []
    torch.testing.assert_close(plain(IDS).logits, expected, atol=1e-4, rtol=0)


def test_adapters_that_are_off_are_not_merged(lora):
    with lora.disable_adapter():
        off = dict(full_weights(lora))
    plain, _ = load_policy("random:tiny-llama?hidden=32&layers=2&std=0.2")
    assert all(value.equal(plain.get_parameter(name)) for name, value in off.items())


@pytest.mark.parametrize("kind", ["plain", "lora"])
def test_copy_is_refreshed_in_place(model, kind, request):
    policy = request.getfixturevalue("lora") if kind == "lora" else model
    copied = RolloutCopy(policy, torch.bfloat16)
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


def test_rotary_frequencies_keep_their_precision(model):
    copied = RolloutCopy(model, torch.bfloat16).model
    assert copied.model.rotary_emb.inv_freq.equal(model.model.rotary_emb.inv_freq)
    assert copied.model.rotary_emb.inv_freq.dtype == torch.float32


def test_policy_is_left_alone(lora):
    before = {name: p.clone() for name, p in lora.named_parameters()}
    trainable = {name for name, p in lora.named_parameters() if p.requires_grad}
    RolloutCopy(lora, torch.bfloat16)
    assert all(p.equal(before[name]) for name, p in lora.named_parameters())
    assert trainable == {name for name, p in lora.named_parameters() if p.requires_grad}


def test_tied_weights_stay_tied():
    copied = RolloutCopy(make("gemma")[0], torch.bfloat16).model
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
