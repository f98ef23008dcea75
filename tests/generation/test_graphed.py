"""Decoding by a replayed CUDA graph; the graph itself needs a device, what decides for it does not."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch

from lightning_focal.foreign import attention_name
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.generation import graphed as graphs
from lightning_focal.generation.decoding import decode
from lightning_focal.generation.sampling import draw_uniforms
from lightning_focal.models import load_policy, response_logp
from lightning_focal.models.attention import use_layouts
from tests.generation.helpers import make_prompts

ROWS = [[5, 9, 33], [70, 8], [1, 2, 3, 4, 5, 6, 7]]


def needs_cuda(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


@pytest.fixture
def grouped():
    """Two query heads share each key, on the device."""
    model, tokenizer = load_policy("random:tiny-llama?hidden=64&layers=2&heads=4&kv_heads=2&seed=3&std=0.2")
    return model.cuda().eval(), tokenizer


def waits(module, args):
    torch.zeros(1).cuda().item()


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(graphs, "_told", set())


def test_not_on_a_cpu(tiny):
    assert not graphs.graphs_steps(tiny[0], 1000)


def same_with_a_graph(model, rows, limit, monkeypatch):
    """Rows end and leave on the way; in float64, where rounding moves no token."""
    model, kept, keep = copy.deepcopy(model).double(), [], graphs.GraphedSteps.keep
    draws, sampling, eos = draw_uniforms([4, 5, 6], 5, limit), Sampling(temperature=1.3), set(range(0, 259, 40))
    monkeypatch.setattr(graphs.GraphedSteps, "keep", lambda self, alive: (kept.append(len(alive)), keep(self, alive)))
    with torch.no_grad():
        tokens, logp = decode(model, rows, draws, sampling, eos=eos, pad=1)
        assert attention_name(model) == "lightning_focal"  # kept: without a layout it is sdpa
        monkeypatch.setattr(graphs, "graphs_steps", lambda model, tokens: False)
        expected, expected_logp = decode(model, rows, draws, sampling, eos=eos, pad=1)
    ends = torch.isin(expected, torch.tensor(sorted(eos), device=expected.device))
    alive = ends.long().cumsum(-1) - ends.long() == 0
    assert kept
    assert tokens[alive].equal(expected[alive])
    torch.testing.assert_close(logp[alive], expected_logp[alive], atol=1e-4, rtol=0)


LENGTHS = pytest.mark.parametrize("rows", [ROWS, [row[:2] for row in ROWS]], ids=["mixed", "equal"])


@LENGTHS
def test_the_steps_of_a_graph_are_those_of_the_growing_cache(rows, monkeypatch):
    """Run one by one on a CPU where a graph would be replayed."""

    def one_by_one(self):
        self._graph = SimpleNamespace(replay=lambda: setattr(self, "_logits", self._forward()))

    model, _ = load_policy("random:tiny-llama?hidden=64&layers=2&heads=4&kv_heads=2&seed=3&std=0.2")
    monkeypatch.setattr(graphs.GraphedSteps, "_capture", one_by_one)
    monkeypatch.setattr(graphs, "graphs_steps", lambda model, tokens: use_layouts(model) is None)
    same_with_a_graph(model, rows, 60, monkeypatch)


@needs_cuda
def test_short_responses_and_other_attentions_are_not_worth_it_or_not_possible(grouped, monkeypatch):
    model = grouped[0]
    assert graphs.graphs_steps(model, 64)
    assert not graphs.graphs_steps(model, 4)
    monkeypatch.setattr(model.config, "attn_logit_softcapping", 30.0, raising=False)
    assert not graphs.graphs_steps(model, 64)


@needs_cuda
@LENGTHS
def test_a_graph_changes_nothing(grouped, rows, monkeypatch):
    same_with_a_graph(grouped[0], rows, 90, monkeypatch)


@needs_cuda
def test_greedy_tokens_are_those_of_generate_and_log_probabilities_those_of_one_pass(grouped):
    model, tokenizer = grouped
    prompts = make_prompts(tokenizer)
    sampling = Sampling(max_new_tokens=40, temperature=0.0)
    generator = HFGenerator()
    generator.sync(model, 0)
    rollouts = generator.generate(model, tokenizer, prompts, group_size=2, seeds=[1, 2, 3, 4], sampling=sampling)
    for i, row in enumerate(prompts.tokens):
        ids = torch.tensor([list(row)]).cuda()
        plain = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=0)
        expected = plain[0, len(row) :].tolist()
        for g in range(2):
            assert rollouts.response_ids[i, g][rollouts.response_mask[i, g]].tolist() == expected
            with torch.no_grad():
                response = torch.tensor([expected]).cuda()
                once = response_logp(model, ids, ids >= 0, response, response >= 0)
            torch.testing.assert_close(rollouts.logp[i, g][rollouts.response_mask[i, g]].to(once), once[0], atol=1e-4, rtol=0)


@needs_cuda
def test_same_seed_same_tokens_and_no_memory_is_kept(grouped):
    model, draws = grouped[0], draw_uniforms([4, 5, 6], 5, 60)
    with torch.no_grad():
        first, _ = decode(model, ROWS, draws, Sampling(), eos={258}, pad=1)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        again, _ = decode(model, ROWS, draws, Sampling(), eos={258}, pad=1)
    assert again.equal(first)
    del again
    assert torch.cuda.memory_allocated() <= before


@needs_cuda
def test_a_model_that_waits_for_the_device_decodes_without(grouped, caplog):
    model, draws = copy.deepcopy(grouped[0]), draw_uniforms([4, 5, 6], 2, 20)
    with torch.no_grad():
        expected, _ = decode(model, ROWS, draws, Sampling(), eos={258}, pad=1)
        graphs._told.clear()
        model.model.register_forward_pre_hook(waits)
        with caplog.at_level(logging.WARNING):
            tokens, _ = decode(model, ROWS, draws, Sampling(), eos={258}, pad=1)
            decode(model, ROWS, draws, Sampling(), eos={258}, pad=1)
    alive = (expected == 258).long().cumsum(-1) - (expected == 258).long() == 0
    assert tokens[alive].equal(expected[alive])
    assert [record.message for record in caplog.records if "without a CUDA graph" in record.message][1:] == []
    assert "without a CUDA graph" in caplog.text
