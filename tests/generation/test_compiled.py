"""Decoding with compiled pieces: the compiler runs for real; a second run finds its kernels on disk."""

import copy
import logging
import os
import subprocess
import sys

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from lightning_focal.generation import HFGenerator, Sampling, compiled
from lightning_focal.generation import hf as module
from lightning_focal.policies import load_policy

from .helpers import make_prompts, responses

SEEDS = [11, 12, 13, 14]


def roll(model, tokenizer, compile, **options):
    generator, prompts = HFGenerator(compile=compile, **options), make_prompts(tokenizer)
    return generator.generate(model, tokenizer, prompts, group_size=3, seeds=SEEDS, sampling=Sampling(max_new_tokens=24))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(compiled, "_failed", set())


@pytest.fixture
def used(monkeypatch):
    """Classes whose compiled pieces ran."""
    seen, real = set(), compiled._compiled
    monkeypatch.setattr(compiled, "_compiled", lambda kind: seen.add(kind.__name__) or real(kind))
    return seen


def early():
    """A policy that likes to end, so that the batch shrinks."""
    model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=3&seed=3&std=0.1")
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = model.lm_head.weight.norm() * 0.4
    return model, tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [64, 3])
def test_same_tokens_same_log_probabilities_and_nothing_stays(used, batch_size):
    model, tokenizer = early()
    model.train()
    before = {name: dict(vars(part)) for name, part in model.named_modules()}
    expected = roll(model, tokenizer, compile=False, batch_size=batch_size)
    assert not used
    got = roll(model, tokenizer, compile=True, batch_size=batch_size)
    assert used == {"LlamaRMSNorm", "LlamaMLP"}
    assert not compiled._failed
    assert len({len(r) for group in responses(expected) for r in group}) > 3
    assert responses(got) == responses(expected)
    torch.testing.assert_close(got.logp, expected.logp, atol=1e-5, rtol=0)
    for name, part in model.named_modules():
        assert vars(part).keys() == before[name].keys()
        assert "forward" not in vars(part)
        assert part.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_pieces_are_norms_and_feed_forward_blocks_and_are_put_back(tiny):
    model = copy.deepcopy(tiny[0])
    layer = model.model.layers[1]
    layer.mlp.forward = mine = lambda hidden: hidden
    before = {name: vars(part).get("forward") for name, part in model.named_modules()}
    with compiled.compiled_pieces(model) as pieces:
        assert sorted(type(piece).__name__ for piece in pieces) == ["LlamaMLP", *["LlamaRMSNorm"] * 4]
        assert all("forward" in vars(piece) for piece in pieces)
        assert layer.mlp.forward is mine  # somebody else's
    assert {name: vars(part).get("forward") for name, part in model.named_modules()} == before
    with pytest.raises(ZeroDivisionError), compiled.compiled_pieces(model):
        1 / 0  # noqa: B018
    assert [name for name, part in model.named_modules() if "forward" in vars(part)] == ["model.layers.1.mlp"]


def test_prompts_run_as_they_are(tiny, used):
    model = tiny[0].eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model(ids).logits
        with compiled.compiled_pieces(model):
            assert torch.allclose(model(ids).logits, expected, atol=1e-5)
    assert not used


def test_compiling_comes_before_packed_weights(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(module.LeanStep, "of", lambda model: asked.append(model))
    monkeypatch.setattr(compiled, "_compiled", lambda kind: kind.forward)
    roll(*tiny, compile=True)
    assert not asked
    roll(*tiny, compile=False)
    assert asked == [tiny[0]]


class Branching(LlamaMLP):
    """Looks at its numbers before it decides what to do: no compiler takes that whole."""

    def forward(self, hidden):
        return super().forward(hidden) if float(hidden.abs().max()) < 1e9 else hidden


def test_what_does_not_compile_is_named_once_and_runs_as_it_is(tiny, monkeypatch, caplog):
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    expected = roll(model, tokenizer, compile=False)
    for layer in model.model.layers:
        layer.mlp.__class__ = Branching
    real = compiled._compiled
    monkeypatch.setattr(compiled, "_compiled", lambda kind: real(kind) if kind is Branching else kind.forward)
    with caplog.at_level(logging.WARNING):
        got = [roll(model, tokenizer, compile=True) for _ in range(2)]
    assert caplog.text.count("Branching decodes without torch.compile") == 1
    assert all(responses(one) == responses(expected) for one in got)
    assert not any("forward" in vars(part) for part in model.modules())


def test_an_error_of_the_piece_itself_is_raised(tiny, monkeypatch):
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]

    def fails(self, hidden):
        raise ZeroDivisionError("mine")

    class Failing(LlamaMLP):
        forward = fails

    model.model.layers[0].mlp.__class__ = Failing
    monkeypatch.setattr(compiled, "_compiled", lambda kind: kind.forward)
    with pytest.raises(ZeroDivisionError, match="mine"):
        roll(model, tokenizer, compile=True)
    assert not any("forward" in vars(part) for part in model.modules())


ALONE = """
from tests.generation.test_compiled import roll, responses
from lightning_focal.policies import load_policy
model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=2&seed=3&std=0.2")
assert responses(roll(model, tokenizer, compile=True)) == responses(roll(model, tokenizer, compile=False))
"""


@pytest.mark.slow
def test_without_a_compiler_it_says_so_and_decodes(tmp_path):
    env = {**os.environ, "CXX": str(tmp_path / "g++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("decodes without torch.compile") == 2  # norms and blocks, once each
