import pytest
import torch

from lightning_focal.models import TinyLlama, load_policy
from lightning_focal.models.tiny import byte_tokenizer


def test_same_seed_same_weights_and_global_state_untouched():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, _ = load_policy("random:tiny-llama?hidden=32&layers=1&seed=5")
    assert torch.rand(3).equal(expected)
    second, _ = load_policy("random:tiny-llama?hidden=32&layers=1&seed=5")
    other, _ = load_policy("random:tiny-llama?hidden=32&layers=1&seed=6")
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.lm_head.weight.equal(other.lm_head.weight)


@pytest.mark.parametrize("text", ["", "plain", "zwölf Boxkämpfer\n\t 日本語 🙂", "<|im_end|>"])
def test_any_text_survives_the_tokenizer(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    if text == "<|im_end|>":
        assert ids == [tokenizer.eos_token_id]
    else:
        assert len(ids) == len(text.encode())


def test_eos_and_pad_differ_and_model_knows_them():
    model, tokenizer = load_policy("random:tiny-llama?layers=1")
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("random:big-llama", "only random policy"),
        ("random:tiny-llama?depth=2", "unknown key 'depth'"),
        ("random:tiny-llama?layers=two", "'layers' must be a number, got 'two'"),
        ("random:tiny-llama?layers=0", "`layers` must be >= 1"),
        ("random:tiny-llama?hidden=30", "multiple of 2"),
        ("random:tiny-llama?kv_heads=3", "divide"),
        ("random:tiny-llama?std=0", "`std`"),
    ],
)
def test_bad_spelling_is_named(source, match):
    with pytest.raises(ValueError, match=match):
        load_policy(source)


def test_parse_reads_every_key():
    expected = TinyLlama(hidden=32, layers=3, heads=2, kv_heads=1, context=99, seed=4, std=0.5)
    assert TinyLlama.parse("random:tiny-llama?hidden=32&layers=3&heads=2&kv_heads=1&context=99&seed=4&std=0.5") == expected
