import sys

import pytest
import torch

from lightning_focal.models import Lora, adapters_off, apply_lora, has_adapters, load_policy
from tests.helpers import adapted

IDS = torch.tensor([[5, 60, 70]])


@pytest.fixture
def model():
    return load_policy("random:tiny-llama?hidden=32&layers=1")[0]


def test_starts_as_the_identity_and_trains_adapters_alone(model):
    before = model(IDS).logits.detach()
    policy = apply_lora(model, Lora(r=4, alpha=8))
    assert policy(IDS).logits.equal(before)
    trainable = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert not any("lm_head" in name for name in trainable)


def test_adapters_off_is_the_reference(model):
    before = model(IDS).logits.detach()
    policy = adapted(model, 0.3)
    trained = policy(IDS).logits.detach()
    assert not torch.allclose(trained, before)
    with adapters_off(policy) as reference:
        assert reference(IDS).logits.equal(before)
    assert policy(IDS).logits.equal(trained)
    with pytest.raises(RuntimeError, match="stop"), adapters_off(policy):
        raise RuntimeError("stop")
    assert policy(IDS).logits.equal(trained)


def test_plain_model_has_no_reference_and_adapters_come_once(model):
    assert not has_adapters(model)
    with pytest.raises(TypeError, match="must have adapters"), adapters_off(model):
        pass
    policy = apply_lora(model, Lora(r=2, target_modules=["q_proj"]))
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in policy.named_parameters() if ".lora_" in name}
    assert targets == {"q_proj"}
    with pytest.raises(ValueError, match="already has adapters"):
        apply_lora(policy, Lora(r=2))


def test_missing_peft_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lightning-focal\[lora\]"):
        apply_lora(model, Lora())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"r": 0}, "`r`"), ({"alpha": 0}, "`alpha`"), ({"dropout": 1.0}, "`dropout`"), ({"target_modules": []}, "`target_modules`")],
)
def test_values_out_of_range(arguments, match):
    with pytest.raises(ValueError, match=match):
        Lora(**arguments)
