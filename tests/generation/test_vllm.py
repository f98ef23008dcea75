"""vLLM in the trainer's process, on a CPU: weights after every update, seeds under load, parameters, adapters."""

import os
import random

import numpy as np
import pytest
import torch

from lightning_focal.generation import HFGenerator, Sampling, VLLMGenerator
from lightning_focal.models import Lora, load_trainable

from .helpers import make_prompts, responses
from .vllm_checks import MARKS, SMALL, TINY, converse, gap, gaps, has_new_weights_after_each_update, many, roll, tiny_policy

pytestmark = MARKS


@pytest.fixture(scope="module")
def made():
    """One engine for most tests: making one takes seconds."""
    policy, tokenizer = tiny_policy()
    generator = VLLMGenerator(**SMALL)
    generator.start(Sampling())
    yield generator, policy, tokenizer
    generator.close()


@pytest.fixture
def fresh():
    """Makes generators that are closed at the end."""
    generators = []

    def make(**options):
        generators.append(VLLMGenerator(**SMALL, **options))
        return generators[-1]

    yield make
    for generator in generators:
        generator.close()


@pytest.mark.parametrize(("tied", "updates"), [(False, 20), (True, 3)])
def test_after_each_update_it_has_the_new_weights(fresh, tied, updates):
    """Tied: an output layer that is the embedding is renewed with it."""
    has_new_weights_after_each_update(fresh(), *tiny_policy(tied), updates)


def test_greedy_responses_are_those_of_transformers(made):
    sampling = Sampling(temperature=0, max_new_tokens=24)
    expected, got = (roll(generator, *made[1:], sampling, group=2) for generator in (HFGenerator(), made[0]))
    assert responses(got) == responses(expected)
    assert torch.equal(got.truncated, expected.truncated)
    assert got.texts == expected.texts
    torch.testing.assert_close(got.logp, expected.logp, atol=1e-5, rtol=0)


def test_turns_are_those_of_transformers(made):
    """Every turn goes on from the tokens of those before; what is drawn has the policy's own log-probabilities."""
    sampling = Sampling(temperature=0, max_new_tokens=12)
    expected, got = (converse(generator, *made[1:], sampling) for generator in (HFGenerator(), made[0]))
    assert responses(got) == responses(expected)
    assert got.trajectories == expected.trajectories
    torch.testing.assert_close(got.logp, expected.logp, atol=1e-5, rtol=0)
    drawn = converse(*made, Sampling(max_new_tokens=2), group=8)
    turns = [sum(message["role"] == "assistant" for message in path) for group in drawn.trajectories for path in group]
    assert set(turns) == {1, 2, 3, 4}
    assert gap(made[1], drawn) < 1e-5


def test_seeds_repeat_under_load_and_differ_from_each_other(made):
    generator, policy, tokenizer = made
    prompts, seeds = many(tokenizer), [2**63 - 1 - 1000 * i for i in range(24)]
    runs = []
    for version in range(2):
        generator.sync(policy, version)
        runs.append(roll(*made, prompts=prompts, seeds=seeds, group=8))
    first, again = runs
    assert responses(again) == responses(first)
    assert torch.equal(again.logp, first.logp)
    assert gap(policy, again) < 1e-5
    assert len({tuple(row) for group in responses(first) for row in group}) == 24 * 8
    other = roll(*made, prompts=prompts, seeds=[seed - 500 for seed in seeds], group=8)
    assert all(a != b for a, b in zip(responses(other), responses(first), strict=True))
    few = make_prompts(tokenizer, tuple(message[0]["content"] for message in prompts.messages[20:]))
    assert (
        responses(roll(*made, prompts=few, seeds=seeds[20:], group=8)) == responses(first)[20:]
    )  # whatever else is in the batch


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1, 1, 3, 6), Sampling(1, 0.3, 0, 6), Sampling(1, 1, 0, 6, 6), Sampling(0.5, 1, 0, 6)],
    ids=["top_k", "top_p", "min_new_tokens", "temperature"],
)
def test_tokens_are_drawn_from_the_distribution_that_is_asked_for(made, sampling):
    """First tokens of many rollouts, against the policy's own distribution."""
    _, policy, tokenizer = made
    prompts, n = make_prompts(tokenizer, ("Hi",)), 120
    with torch.no_grad():
        logits = policy(torch.tensor([prompts.tokens[0]])).logits[0, -1] / sampling.temperature
    probabilities = logits.softmax(-1)
    order = probabilities.argsort(descending=True)
    kept = torch.ones_like(probabilities, dtype=torch.bool)
    if sampling.top_k:
        kept[order[sampling.top_k :]] = False
    if sampling.top_p < 1:
        kept[order[probabilities[order].cumsum(-1) - probabilities[order] >= sampling.top_p]] = False
    if sampling.min_new_tokens:
        kept[tokenizer.eos_token_id] = False
    expected = torch.where(kept, probabilities, 0) / probabilities[kept].sum()
    rollouts = roll(*made, sampling, group=n, seeds=[5], prompts=prompts)
    assert (rollouts.lengths >= sampling.min_new_tokens).all()
    drawn = torch.bincount(rollouts.response_ids[0, :, 0], minlength=len(expected)) / n
    assert not drawn[~kept].any()
    head = order[:10]  # their shares, within four standard errors
    assert ((drawn - expected)[head].abs() < 4 * (expected * (1 - expected) / n).sqrt()[head] + 1e-6).all()
    if sampling.temperature == 1:
        assert gap(policy, rollouts) < 1e-5
    else:
        assert rollouts.logp is None  # this engine reports those of temperature 1


def test_weights_changed_behind_its_back_are_an_error(made):
    made[0].sync(made[1], 7)
    made[0]._engine.llm.update_weight_version("somebody else's")
    with pytest.raises(RuntimeError, match='"somebody else\'s"'):
        roll(*made)
    made[0].sync(made[1], 8)
    assert gap(made[1], roll(*made)) < 1e-5


def process_state():
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
    threads = torch.get_num_threads(), torch.set_num_threads
    return torch.get_rng_state().tolist(), random.getstate(), numpy, threads, dict(os.environ), os.sched_getaffinity(0)


def test_the_trainer_notices_nothing(made, fresh, monkeypatch):
    """Random states, threads, environment and the bits of the policy's own forward are left alone."""
    _, policy, tokenizer = made
    monkeypatch.setenv("WORLD_SIZE", "2")
    ids = torch.tensor([make_prompts(tokenizer).tokens[1]])
    with torch.no_grad():
        before = policy(ids).logits
    state = process_state()
    roll(fresh(), policy, tokenizer, Sampling(temperature=0.7, max_new_tokens=4))
    assert process_state() == state
    with torch.no_grad():
        assert torch.equal(policy(ids).logits, before)


def test_an_engine_for_another_temperature_reports_its_log_probabilities(made, fresh):
    generator, sampling = fresh(dtype="bfloat16"), Sampling(temperature=0.6, max_new_tokens=8)
    generator.start(sampling, needs_logp=True)
    difference = gaps(made[1], roll(generator, *made[1:], sampling), 0.6)
    assert 1e-4 < float(difference.mean()) < 0.05  # bfloat16
    assert float(difference.max()) < 0.3


@pytest.mark.parametrize("lora", ["merged", "adapter"])
def test_adapters(lora, fresh):
    policy, tokenizer = load_trainable(TINY, lora=Lora(r=4, alpha=8.0))
    policy.eval()
    rollouts = has_new_weights_after_each_update(fresh(lora=lora), policy, tokenizer, updates=3, lr=0.2)
    with policy.disable_adapter():
        assert gap(policy, rollouts) > 1e-3


def test_refused_here(fresh):
    with pytest.raises(ValueError, match="`sleep` must be false on a CPU"):
        VLLMGenerator(sleep=True).start(Sampling())
    with pytest.raises(ValueError, match="needs a policy with adapters"):
        roll(fresh(lora="adapter"), *tiny_policy())


def test_a_parameter_that_got_no_value_is_an_error(made, monkeypatch):
    generator, policy, _ = made
    roll(*made)
    rest = [(name, value) for name, value in policy.state_dict().items() if "layers.1.mlp.down_proj" not in name]
    monkeypatch.setattr("lightning_focal.generation.vllm.hub_weights", lambda _: iter(rest))
    with pytest.raises(RuntimeError, match=r"do not match.*layers\.1\.mlp\.down_proj"):
        generator.sync(policy, 0)
    monkeypatch.undo()
    generator.sync(policy, 0)
    assert gap(policy, roll(*made)) < 1e-5
