import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lightning_focal.generation.cache import growing_cache, why_not_growing

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_grows_repeats_and_selects_like_a_concatenation():
    cache = growing_cache()
    keys = torch.randn(2, 3, 5, 4)
    values = torch.randn(2, 3, 5, 6)
    cache.update(keys, values, 0)
    cache.layers[0].batch_repeat_interleave(3)
    keys, values = keys.repeat_interleave(3, 0), values.repeat_interleave(3, 0)
    for step in range(150):
        new_keys, new_values = torch.randn(len(keys), 3, 1, 4), torch.randn(len(keys), 3, 1, 6)
        keys, values = torch.cat([keys, new_keys], 2), torch.cat([values, new_values], 2)
        got_keys, got_values = cache.update(new_keys, new_values, 0)
        assert got_keys.equal(keys)
        assert got_values.equal(values)
        assert cache.get_seq_length() == keys.shape[2]
        if step in (0, 63, 64, 100):
            kept = torch.arange(len(keys))[torch.arange(len(keys)) != step % len(keys)]
            cache.layers[0].batch_select_indices(kept)
            keys, values = keys[kept], values[kept]


def test_selecting_before_the_first_step():
    cache = growing_cache()
    keys = torch.randn(3, 1, 2, 4)
    cache.update(keys, keys, 0)
    cache.layers[0].batch_select_indices(torch.tensor([2]))
    assert cache.layers[0].keys.equal(keys[2:])


def test_plain_caches_fit():
    assert why_not_growing(LlamaForCausalLM(LlamaConfig(**SMALL))) is None
    assert why_not_growing(Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=1))) is None


def test_sliding_and_recurrent_caches_do_not():
    gemma = Gemma2ForCausalLM(Gemma2Config(**SMALL, num_key_value_heads=1, head_dim=8))
    assert why_not_growing(gemma) == "its cache has DynamicSlidingWindowLayer"
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1))
    assert "takes no" in why_not_growing(mamba)
