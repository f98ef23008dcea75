import copy

import pytest
import torch
import transformers

from lightning_focal.generation import Sampling
from lightning_focal.generation.decoding import decode
from lightning_focal.generation.lean import LeanStep, why_not_lean
from lightning_focal.generation.sampling import draw_uniforms

ROWS = [[5, 9, 33], [70, 8], [1, 2, 3, 4, 5, 6, 7]]
SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
FAMILY = {
    "llama": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama3": transformers.LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=16),
    "qwen2": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=16),
}


def make(config, seed=0):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases are 1 and 0 when fresh
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def drawn(model, lean, limit=40):
    draws, sampling = draw_uniforms([4, 5, 6], 5, limit), Sampling(temperature=1.3)
    with torch.no_grad():
        return decode(model, ROWS, draws, sampling, eos=set(range(0, 97, 20)), pad=1, lean=lean)


@pytest.mark.parametrize("kind", FAMILY)
def test_tokens_and_logp_are_those_of_the_model_itself(kind):
    model = make(FAMILY[kind])
    expected, expected_logp = drawn(model, None)
    steps = LeanStep.of(model)
    for _ in range(2):  # the second time unchecked
        tokens, logp = drawn(model, steps)
        ends = torch.isin(expected, torch.arange(0, 97, 20))
        alive = ends.long().cumsum(-1) - ends.long() == 0
        assert alive.any(-1).all()
        assert not alive.all()
        assert tokens[alive].equal(expected[alive])
        torch.testing.assert_close(logp[alive], expected_logp[alive], atol=1e-5, rtol=3e-6)  # a few units in the last place


def test_bfloat16_stays_close():
    model = make(FAMILY["qwen3"]).bfloat16()
    one = [ROWS[0]]
    draws = draw_uniforms([4], 5, 1 + 1)
    with torch.no_grad():
        expected, expected_logp = decode(model, one, draws, Sampling(), eos={96}, pad=1)
        tokens, logp = decode(model, one, draws, Sampling(), eos={96}, pad=1, lean=LeanStep.of(model))
    same = tokens == expected
    assert same[..., 0].all()
    assert same.float().mean() > 0.6
    torch.testing.assert_close(logp[same], expected_logp[same], atol=0.2, rtol=0)


def test_repeats_itself_exactly():
    model = make(FAMILY["llama"])
    first, second = (drawn(model, LeanStep.of(model)) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def hooked():
    model = make(FAMILY["llama"])
    model.model.layers[1].mlp.register_forward_hook(lambda *args: None)
    return model


def with_adapter():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(make(FAMILY["llama"]), LoraConfig(target_modules=["q_proj"])).get_base_model()


def replaced():
    model = make(FAMILY["llama"])
    model.model.norm.forward = lambda hidden: hidden
    return model


REFUSED = {
    "hook": (hooked, "replaced"),
    "adapter": (with_adapter, "replaced"),
    "forward": (replaced, "replaced"),
    "family": (lambda: make(transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2)), "none of"),
    "activation": (lambda: make(transformers.LlamaConfig(**SIZES, hidden_act="gelu")), "activation is gelu"),
    "precision": (lambda: make(FAMILY["llama"]).double(), "not on a CPU in float32"),
    "two precisions": (lambda: mixed_precision(make(FAMILY["llama"])), "several precisions"),
}


def mixed_precision(model):
    model.model.layers[0].mlp.bfloat16()
    return model


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_out_of_the_ordinary_is_refused(kind):
    make_it, reason = REFUSED[kind]
    model = make_it()
    assert reason in why_not_lean(model)
    assert LeanStep.of(model) is None


class LlamaForCausalLM(transformers.LlamaForCausalLM):
    """Looks like a Llama, and is none."""

    __module__ = "transformers.elsewhere"

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out


def test_other_logits_are_found_out_at_the_first_step(caplog):
    model = LlamaForCausalLM(copy.deepcopy(FAMILY["llama"])).eval().requires_grad_(False)
    expected, expected_logp = drawn(model, None)
    tokens, logp = drawn(model, LeanStep.of(model))
    assert tokens.equal(expected)
    assert logp.equal(expected_logp)
    assert LeanStep.of(model) is None
    assert caplog.text.count("gave other logits") == 1
