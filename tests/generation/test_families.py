"""Rollouts of many architectures: what the sampler says of its tokens is what the model's own forward says of them."""

import logging

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.generation import hf as module
from lightning_focal.models import why_not_packed
from lightning_focal.models.tiny import byte_tokenizer
from lightning_focal.types import Prompts

TEXTS = ("hey", "what is the time?", "and now, in a rather longer question?")
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}  # fmt: skip
COMMON = [
    ("llama", {}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 16}),
    ("gemma3_text", {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
]
UNUSUAL = [
    ("jetmoe", {"kv_channels": 16, "num_local_experts": 4}),
    ("diffllama", {}),
    ("hrm_text", {}),
    ("nemotron", {}),
    ("minicpm3", MLA),
    ("deepseek_v3", MLA),
    ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    ("mamba", {"state_size": 4, "num_hidden_layers": 2}),
    ("recurrent_gemma", {"lru_width": 64, "num_hidden_layers": 3, "attention_window_size": 8}),
]


def model_of(kind, extra):
    tokenizer = byte_tokenizer()
    settings = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.15, "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, **extra,
    }  # fmt: skip
    config = CONFIG_MAPPING[kind]
    known = set(config().to_dict()) | set(getattr(config(), "attribute_map", {}))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**{k: v for k, v in settings.items() if k in known})).eval(), tokenizer


def roll(model, tokenizer, generator):
    rows = tuple(tuple(tokenizer(text)["input_ids"]) for text in TEXTS)
    chats = (({"role": "user", "content": "?"},),) * len(rows)
    prompts = Prompts(tuple("abc"), chats, tokens=rows)
    return generator.generate(model, tokenizer, prompts, group_size=3, seeds=[1, 2, 3], sampling=Sampling(max_new_tokens=16))


def largest_gap(model, rollouts):
    """Largest difference from the model's own logits, one whole sequence at a time."""
    gaps = []
    for i, row in enumerate(rollouts.prompts.tokens):
        for ids, mask, logp in zip(rollouts.response_ids[i], rollouts.response_mask[i], rollouts.logp[i], strict=True):
            whole = torch.cat([torch.tensor(row), ids[mask]])[None]
            with torch.no_grad():
                own = torch.log_softmax(model(input_ids=whole, use_cache=False).logits[0].float(), -1)
            gaps.append((own[len(row) - 1 : -1].gather(-1, ids[mask][:, None])[:, 0] - logp[mask]).abs().max())
    return float(torch.stack(gaps).max())


@pytest.mark.parametrize(("kind", "extra"), COMMON, ids=[kind for kind, _ in COMMON])
def test_common_families_run_by_the_quick_paths(kind, extra, caplog):
    """A path that another package's release switches off must fail here, not be a line in a log."""
    model, tokenizer = model_of(kind, extra)
    generator = HFGenerator()
    assert generator.describe(model) == "cache loop, float32"
    with caplog.at_level(logging.WARNING):
        assert largest_gap(model, roll(model, tokenizer, generator)) < 1e-4
        reason = why_not_packed(model)
    assert reason == ("its cache has DynamicSlidingWindowLayer" if kind == "gemma3_text" else None)
    assert not [r for r in caplog.records if r.name == module.__name__]
    assert generator.describe(model) == "cache loop, float32"


@pytest.mark.parametrize(
    ("graphs", "words"), [(True, "in CUDA graphs"), (False, "without CUDA graphs (its attention cannot be replaced)")]
)
def test_on_a_gpu_the_first_line_says_whether_there_are_graphs(monkeypatch, graphs, words):
    model, _ = model_of(*COMMON[0])
    monkeypatch.setattr(module, "compute_device", lambda policy: torch.device("cuda"))
    monkeypatch.setattr(module, "graphs_steps", lambda model, tokens: graphs)
    assert HFGenerator().describe(model) == f"cache loop {words}, float32"


@pytest.mark.parametrize(("kind", "extra"), UNUSUAL, ids=[kind for kind, _ in UNUSUAL])
def test_unusual_families_are_sampled_from_their_own_distribution(kind, extra):
    model, tokenizer = model_of(kind, extra)
    assert largest_gap(model, roll(model, tokenizer, HFGenerator())) < 1e-3


def test_a_way_that_differs_is_left_in_words(monkeypatch, caplog):
    model, tokenizer = model_of(*COMMON[0])
    expected = roll(model, tokenizer, HFGenerator())

    def shifted(*args, **kwargs):
        tokens, logp = right(*args, **kwargs)
        return tokens, logp - 0.5

    right = module.decode
    monkeypatch.setattr(module, "decode", shifted)
    generator = HFGenerator()
    with caplog.at_level(logging.WARNING):
        rollouts = roll(model, tokenizer, generator)
        roll(model, tokenizer, generator)
    assert [r.message for r in caplog.records if r.name == module.__name__] == [
        "LlamaForCausalLM is not decoded by cache loop: its log-probabilities there differ from its own forward by 0.5 nats a token; "
        "it goes on by generate()"
    ]
    torch.testing.assert_close(rollouts.logp, expected.logp, atol=1e-4, rtol=0)
    assert generator.describe(model).startswith("generate() (")


def test_a_model_that_ignores_padding_goes_one_length_at_a_time(monkeypatch, caplog):
    model, tokenizer = model_of(*COMMON[0])
    expected = roll(model, tokenizer, HFGenerator())
    own = model.forward

    def blind(input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return own(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", blind)
    with caplog.at_level(logging.WARNING):
        rollouts = roll(model, tokenizer, HFGenerator())
    assert "one length at a time" in caplog.text
    torch.testing.assert_close(rollouts.logp, expected.logp, atol=1e-4, rtol=0)


def test_a_model_that_no_way_samples_from_is_refused(monkeypatch):
    model, tokenizer = model_of(*COMMON[0])
    monkeypatch.setattr(module, "gap_to_forward", lambda *args, **kwargs: float("nan"))
    with pytest.raises(RuntimeError, match="LlamaForCausalLM cannot be sampled from here"):
        roll(model, tokenizer, HFGenerator())
