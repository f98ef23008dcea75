import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lightning_focal.models.cache import cache_argument, why_not_cached, why_not_plain

SMALL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "bos_token_id": None,
    "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def made(kind, **more):
    config = CONFIG_MAPPING[kind]
    known = set(config().to_dict())
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**{k: v for k, v in {**SMALL, **more}.items() if k in known}))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mixtral", "gpt2"])
def test_plain_caches_fit(kind):
    model = made(kind, n_embd=16, n_layer=2, n_head=2)
    assert why_not_cached(model) is None
    assert why_not_plain(model) is None


def test_sliding_windows_can_be_repeated_but_are_not_plain():
    model = made("gemma3_text", sliding_window=4, layer_types=["sliding_attention", "full_attention"])
    assert why_not_cached(model) is None
    assert why_not_plain(model) == "its cache has DynamicSlidingWindowLayer"


def test_recurrent_states_can_be_repeated_but_are_not_plain():
    model = made("lfm2", layer_types=["conv", "full_attention"])
    assert why_not_cached(model) is None
    assert why_not_plain(model) == "its cache has LinearAttentionLayer"


def test_a_state_that_is_no_cache_and_an_encoder_decoder_are_named():
    assert why_not_cached(made("rwkv", attention_hidden_size=16)) == "its forward takes neither cache nor past_key_values"
    model = made("llama")
    model.config.is_encoder_decoder = True
    assert why_not_cached(model) == why_not_plain(model) == "it is an encoder-decoder"


def test_the_argument_is_told_from_the_signature():
    class Old:
        def forward(self, input_ids, past_key_values=None): ...

    class New:
        def forward(self, input_ids, cache=None): ...

    class Both:
        def forward(self, input_ids, past_key_values=None, cache=None): ...

    assert [cache_argument(kind()) for kind in (Old, New, Both)] == ["past_key_values", "cache", "cache"]
    assert cache_argument(made("llama")) in ("past_key_values", "cache")
