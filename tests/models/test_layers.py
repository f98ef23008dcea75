import copy

import pytest
import torch
import transformers

from lightning_focal.functional import gated_mlp
from lightning_focal.models import Lora, apply_lora, packed_attention, response_measures, why_not_packed
from lightning_focal.models import layers as module
from lightning_focal.models.layers import lean_layers

from .test_packing import RAGGED, assert_same, grouped, sizes_of, weighted

SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
FAMILY = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama with biases": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=16),
}


def make(config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases are 1 and 0 when fresh
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", FAMILY)
def test_gradients_are_those_of_the_plain_model(kind):
    model, data = make(FAMILY[kind]), grouped(RAGGED)
    replaced = []
    with lean_layers(model):
        replaced = [type(m).__name__ for m in model.modules() if "forward" in m.__dict__]
    assert len(replaced) == {"llama with biases": 2 * 3 + 1, "qwen3": 2 * 6 + 1}.get(kind, 2 * 4 + 1)
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert_same(weighted(model, data, sizes_of(data)), weighted(model, data, None))


def test_checkpointed_layers():
    model, data = make(FAMILY["qwen3"]), grouped(RAGGED)
    expected = weighted(model, data, None)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert_same(weighted(model, data, sizes_of(data)), expected)


def test_adapters_go_on_as_they_are():
    policy = apply_lora(make(FAMILY["llama"]), Lora(r=4))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    data = grouped(RAGGED)
    assert_same(weighted(policy, data, sizes_of(data)), weighted(policy, data, None))


def test_frozen_parameters_get_no_gradient():
    model, data = make(FAMILY["llama"]), grouped(RAGGED)
    model.model.layers[0].mlp.gate_proj.weight.requires_grad_(False)
    model.model.layers[1].input_layernorm.weight.requires_grad_(False)
    found = weighted(model, data, sizes_of(data))
    assert "model.layers.0.mlp.gate_proj.weight" not in found
    assert_same(found, weighted(model, data, None))


def test_bfloat16_stays_close():
    model, data = make(FAMILY["qwen3"]), grouped(RAGGED)
    low = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        exact, _ = response_measures(model, *data)
        found, _ = response_measures(low, *data, sizes=sizes_of(data))
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = response_measures(model, *data, sizes=sizes_of(data))
    for other in (found, cast):
        assert float((other - exact).abs().mean()) < 0.1


def test_autocast_gradients_stay_close():
    model, data = make(FAMILY["llama"]), grouped(RAGGED)
    expected = weighted(model, data, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = weighted(model, data, sizes_of(data))
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) < 0.1 * float(gradient.norm()), name


def test_other_kinds_and_hooked_layers_are_left_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "gated_mlp", lambda *args: calls.append(args) or gated_mlp(*args))
    model, data, seen = make(FAMILY["llama"]), grouped(RAGGED), []
    why_not_packed(model)  # tries the model out
    calls.clear()
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *args: seen.append(1))
    with torch.no_grad(), packed_attention(model):
        response_measures(model, *data, sizes=sizes_of(data))
    assert len(calls) == len(seen) == 1  # one of two layers each
    gelu = make(transformers.LlamaConfig(**SIZES, hidden_act="gelu"))
    other = make(transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2))
    with lean_layers(gelu), lean_layers(other), lean_layers(make(FAMILY["llama"]).double()):
        assert not any("forward" in m.__dict__ for m in gelu.model.layers[0].mlp.modules())
        assert not any("forward" in m.__dict__ for m in other.modules())
