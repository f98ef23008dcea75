"""Which models another attention can be handed to."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GptOssConfig, GptOssForCausalLM

from lightning_focal.generation import Sampling
from lightning_focal.generation.decoding import decode, decode_with_generate
from lightning_focal.generation.sampling import draw_uniforms
from lightning_focal.models.attention import takes_attention
from lightning_focal.models.cache import why_not_cached

ROWS = [[5, 9, 33], [20, 8], [1, 2, 3, 4, 5, 6, 7]]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "layer_types": ["full_attention"] * 2,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def capped(cap=0.5):
    """Scores go through a soft cap that changes them by much."""
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_logit_softcapping=cap, query_pre_attn_scalar=1)).eval()
    model.set_attn_implementation("eager")
    return model


def with_sinks():
    torch.manual_seed(0)
    return GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)).eval()


def test_a_plain_attention_can_be_replaced(tiny):
    assert takes_attention(tiny[0])


@pytest.mark.parametrize("made", [capped, with_sinks])
def test_soft_caps_and_sinks_keep_their_own_attention(made):
    """Also where transformers lets them run by a kernel that knows neither."""
    model = made()
    model.config._attn_implementation = "sdpa"
    assert model._supports_attention_backend
    assert not takes_attention(model)


def test_a_capped_model_draws_as_its_own_generate():
    model = capped()
    assert why_not_cached(model) is None
    arguments = (model, ROWS, draw_uniforms([1, 2, 3], 4, 12), Sampling(temperature=0.9))
    with torch.no_grad():
        tokens, logp = decode(*arguments, eos={1}, pad=0)
        expected, expected_logp = decode_with_generate(*arguments, eos={1}, pad=0)
        ended = (expected == 1).long().cumsum(-1) - (expected == 1).long() > 0
        assert tokens[~ended].equal(expected[~ended])
        torch.testing.assert_close(logp[~ended], expected_logp[~ended], atol=1e-5, rtol=0)
        rows = torch.tensor([ROWS[2]])
        assert not torch.allclose(capped(None)(rows).logits, model(rows).logits, atol=1e-3)  # the cap matters here
