"""Ways to decode a model: each is tried first, and left in words where it samples from another distribution."""

import logging

import pytest
import torch

from lightning_focal.generation import HFGenerator
from lightning_focal.generation import hf as module
from lightning_focal.models.rows import how_they_differ
from tests.models.architectures import make, rolled

DIFFERS = "its log-probabilities there differ from its own forward by 0.5 nats a token"


def shift(monkeypatch, when=lambda prompts, named: True):
    """Have the cache loop report other log-probabilities."""

    def shifted(model, prompts, *args, **named):
        tokens, logp = right(model, prompts, *args, **named)
        return tokens, logp - 0.5 * when(prompts, named)

    right = module.decode
    monkeypatch.setattr(module, "decode", shifted)


def test_on_a_gpu_the_first_line_says_whether_there_are_graphs(monkeypatch, caplog):
    """Or that they differ and are off."""
    model, _ = make("llama")
    monkeypatch.setattr(module, "compute_device", lambda policy: torch.device("cuda"))
    for graphs, words in ((True, "in CUDA graphs"), (False, "without CUDA graphs (its attention cannot be replaced)")):
        monkeypatch.setattr(module, "graphs_steps", lambda model, tokens, graphs=graphs: graphs)
        assert HFGenerator().describe(model) == f"cache loop {words}, float32"
    monkeypatch.setattr(module, "graphs_steps", lambda model, tokens: True)
    shift(monkeypatch, lambda prompts, named: named["graphs"])
    assert HFGenerator().describe(model) == f"cache loop without CUDA graphs ({DIFFERS}), float32"
    assert caplog.messages == [f"LlamaForCausalLM is not decoded by cache loop in CUDA graphs: {DIFFERS}"]


def test_a_way_that_differs_is_left_in_words(monkeypatch, caplog):
    model, tokenizer = make("llama")
    expected = rolled(model, tokenizer, HFGenerator())
    shift(monkeypatch)
    generator = HFGenerator()
    assert generator.describe(model) == f"generate() ({DIFFERS}), float32"
    rollouts = rolled(model, tokenizer, generator)
    assert [r.message for r in caplog.records if r.name == module.__name__] == [
        f"LlamaForCausalLM is not decoded by cache loop: {DIFFERS}"
    ]
    torch.testing.assert_close(rollouts.logp, expected.logp, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("one", "two"), f"generate() ({DIFFERS}), float32"),
        (("one", "and two"), f"cache loop on prompts of one length at a time (padded, {DIFFERS}), float32"),
    ],
    ids=["equal", "padded"],
)
def test_real_prompts_are_compared_once_too(texts, words, monkeypatch, caplog):
    model, tokenizer = make("llama")
    expected = rolled(model, tokenizer, HFGenerator(), texts)
    generator = HFGenerator()
    assert generator.describe(model) == "cache loop, float32"
    real = {tuple(tokenizer(text)["input_ids"]) for text in texts}
    shift(monkeypatch, lambda prompts, named: set(map(tuple, prompts)) == real)
    rollouts = rolled(model, tokenizer, generator, texts)
    torch.testing.assert_close(rollouts.logp, expected.logp, atol=1e-4, rtol=0)
    assert generator.describe(model) == words
    assert len(caplog.records) == 1


def test_a_model_that_ignores_padding_goes_one_length_at_a_time(monkeypatch, caplog):
    model, tokenizer = make("llama")
    expected = rolled(model, tokenizer, HFGenerator())
    own = model.forward

    def blind(input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return own(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", blind)
    with caplog.at_level(logging.WARNING):
        rollouts = rolled(model, tokenizer, HFGenerator())
    assert "one length at a time" in caplog.text
    torch.testing.assert_close(rollouts.logp, expected.logp, atol=1e-4, rtol=0)


def test_a_model_that_no_way_samples_from_is_refused(monkeypatch):
    model, tokenizer = make("llama")
    monkeypatch.setattr(module, "why_not_own", lambda *args, **kwargs: how_they_differ([(torch.tensor([torch.nan]), 1.0)]))
    with pytest.raises(RuntimeError, match="LlamaForCausalLM cannot be sampled from here"):
        rolled(model, tokenizer, HFGenerator())
