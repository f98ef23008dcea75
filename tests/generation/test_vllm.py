"""vLLM in the trainer's process, on a CPU: weights after every update, seeds under load, parameters, adapters."""

import copy
import random

import numpy as np
import pytest
import torch

from lightning_focal.generation import HFGenerator, Sampling, VLLMGenerator
from lightning_focal.generation.vllm_engine import _expect_all_loaded
from lightning_focal.generation.vllm_http import VLLMServer
from lightning_focal.generation.vllm_transfer import weight_source
from lightning_focal.models import Lora, load_trainable
from lightning_focal.models.folder import hub_weights

from .helpers import make_prompts, responses
from .vllm_checks import MARKS, TINY, gap, tiny_policy, trainer_logp, update

pytestmark = MARKS
SMALL = {"max_model_len": 256, "kv_cache_gb": 0.05}
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def made():
    """One engine for most tests: making one takes seconds."""
    policy, tokenizer = tiny_policy()
    generator = VLLMGenerator(**SMALL)
    generator.start(Sampling())
    yield policy, tokenizer, generator
    generator.close()


def roll(made, sampling=Sampling(max_new_tokens=16), *, group_size=4, seeds=SEEDS, prompts=None, policy=None):  # noqa: B008
    own, tokenizer, generator = made
    prompts = prompts or make_prompts(tokenizer)
    return generator.generate(policy or own, tokenizer, prompts, group_size=group_size, seeds=seeds, sampling=sampling)


def test_after_each_of_twenty_updates_it_has_the_new_weights(made):
    policy = copy.deepcopy(made[0])
    optimizer, rollouts = torch.optim.SGD(policy.parameters(), lr=0.02), None
    for version in range(21):
        before = copy.deepcopy(policy)
        if rollouts is not None:
            update(policy, optimizer, rollouts)
        made[2].sync(policy, version)
        rollouts = roll(made, policy=policy)
        assert rollouts.version == version
        assert gap(policy, rollouts) < 1e-5
        if version:
            assert gap(before, rollouts) > 1e-3


def test_an_output_layer_that_is_the_embedding_is_renewed_with_it():
    policy, tokenizer = tiny_policy(tied=True)
    generator = VLLMGenerator(**SMALL)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.02)
    try:
        for version in range(3):
            generator.sync(policy, version)
            rollouts = roll((policy, tokenizer, generator))
            assert gap(policy, rollouts) < 1e-5
            before = copy.deepcopy(policy)
            update(policy, optimizer, rollouts)
            assert gap(policy, rollouts) > 1e-3
            assert gap(before, rollouts) < 1e-5
    finally:
        generator.close()


def test_greedy_responses_are_those_of_transformers(made):
    sampling = Sampling(temperature=0, max_new_tokens=24)
    arguments = {"group_size": 2, "seeds": SEEDS, "sampling": sampling}
    prompts = make_prompts(made[1])
    expected = HFGenerator().generate(made[0], made[1], prompts, **arguments)
    got = roll(made, sampling, group_size=2)
    assert responses(got) == responses(expected)
    assert torch.equal(got.truncated, expected.truncated)
    assert got.texts == expected.texts
    torch.testing.assert_close(got.logp, expected.logp, atol=1e-5, rtol=0)


def many(tokenizer):
    """More prompts, and longer ones, than go into one step of the engine."""
    return make_prompts(tokenizer, tuple(f"Question {i}: " + "why? " * (i % 12) for i in range(24)))


def test_seeds_repeat_under_load_and_differ_from_each_other(made):
    prompts = many(made[1])
    seeds = [2**63 - 1 - 1000 * i for i in range(24)]
    made[2].sync(made[0], 0)
    first = roll(made, prompts=prompts, seeds=seeds, group_size=8)
    made[2].sync(made[0], 1)
    again = roll(made, prompts=prompts, seeds=seeds, group_size=8)
    assert responses(again) == responses(first)
    assert torch.equal(again.logp, first.logp)
    assert gap(made[0], again) < 1e-5
    rows = [tuple(row) for group in responses(first) for row in group]
    assert len(set(rows)) == 24 * 8
    other = roll(made, prompts=prompts, seeds=[seed - 500 for seed in seeds], group_size=8)
    assert all(a != b for a, b in zip(responses(other), responses(first), strict=True))


def test_a_response_does_not_depend_on_the_other_prompts(made):
    prompts = many(made[1])
    whole = responses(roll(made, prompts=prompts, seeds=range(24), group_size=2))
    few = make_prompts(made[1], tuple(message[0]["content"] for message in prompts.messages[20:]))
    assert responses(roll(made, prompts=few, seeds=range(20, 24), group_size=2)) == whole[20:]


@pytest.mark.parametrize(
    "sampling", [Sampling(top_k=3), Sampling(top_p=0.3), Sampling(min_new_tokens=6), Sampling(temperature=0.5)], ids=str
)
def test_tokens_are_drawn_from_the_distribution_that_is_asked_for(made, sampling):
    """First tokens of many rollouts, against the policy's own distribution."""
    policy, tokenizer, generator = made
    prompts, n = make_prompts(tokenizer, ("Hi",)), 120
    sampling = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, 6, sampling.min_new_tokens)
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
    rollouts = generator.generate(policy, tokenizer, prompts, group_size=n, seeds=[5], sampling=sampling)
    assert (rollouts.lengths >= sampling.min_new_tokens).all()
    drawn = torch.bincount(rollouts.response_ids[0, :, 0], minlength=len(expected)) / n
    assert not drawn[~kept].any()
    head = order[:10]  # their shares, within four standard errors
    assert ((drawn - expected)[head].abs() < 4 * (expected * (1 - expected) / n).sqrt()[head] + 1e-6).all()
    if sampling.temperature == 1:
        assert gap(policy, rollouts) < 1e-5
    else:
        assert rollouts.logp is None  # this engine reports those of temperature 1


def test_a_length_can_be_forced(made):
    rollouts = roll(made, Sampling(max_new_tokens=5, min_new_tokens=5))
    assert (rollouts.lengths == 5).all()
    assert rollouts.truncated.all()


def test_weights_changed_behind_its_back_are_an_error(made):
    policy = copy.deepcopy(made[0])
    made[2].sync(policy, 7)
    roll(made, policy=policy)
    with torch.no_grad():
        next(policy.parameters()).add_(0.01)
    with pytest.raises(RuntimeError, match="weights of version 7"):
        roll(made, policy=policy)
    made[2].sync(policy, 8)
    assert gap(policy, roll(made, policy=policy)) < 1e-5
    made[2]._engine.llm.update_weight_version("somebody else's")
    with pytest.raises(RuntimeError, match='"somebody else\'s"'):
        roll(made, policy=policy)


def test_two_models_take_turns(made):
    """A teacher answers with its own weights, the policy again with its own."""
    policy, teacher = made[0], copy.deepcopy(made[0])
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.3)
    for model, other in ((policy, teacher), (teacher, policy), (policy, teacher)):
        made[2].sync(model, 3)
        rollouts = roll(made, policy=model)
        assert gap(model, rollouts) < 1e-5 < gap(other, rollouts)


def test_the_trainer_notices_nothing(made):
    """Random states, thread count and the bits of the policy's own forward are left alone."""
    policy, tokenizer, _ = made
    ids = torch.tensor([make_prompts(tokenizer).tokens[1]])
    with torch.no_grad():
        before = policy(ids).logits
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    fresh = VLLMGenerator(**SMALL)
    fresh.generate(
        policy,
        tokenizer,
        make_prompts(tokenizer),
        group_size=2,
        seeds=SEEDS,
        sampling=Sampling(temperature=0.7, max_new_tokens=4),
    )
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert (torch.get_num_threads(), torch.set_num_threads) == (threads, setter)
    with torch.no_grad():
        assert torch.equal(policy(ids).logits, before)
    fresh.close()


def test_an_engine_for_another_temperature_reports_its_log_probabilities(made):
    policy, tokenizer, _ = made
    generator = VLLMGenerator(dtype="bfloat16", **SMALL)
    sampling = Sampling(temperature=0.6, max_new_tokens=8)
    generator.start(sampling, needs_logp=True)
    rollouts = generator.generate(policy, tokenizer, make_prompts(tokenizer), group_size=4, seeds=SEEDS, sampling=sampling)
    difference = (trainer_logp(policy, rollouts, 0.6) - rollouts.logp)[rollouts.response_mask].abs()
    assert 1e-4 < float(difference.mean()) < 0.05  # bfloat16
    assert gap(policy, rollouts, 0.6) < 0.3
    generator.close()


@pytest.mark.parametrize("lora", ["merged", "adapter"])
def test_adapters(lora):
    policy, tokenizer = load_trainable(TINY, lora=Lora(r=4, alpha=8.0))
    policy.eval()
    generator = VLLMGenerator(lora=lora, **SMALL)
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.2)
    rollouts = None
    for version in range(4):
        if rollouts is not None:
            update(policy, optimizer, rollouts)
        generator.sync(policy, version)
        rollouts = roll((policy, tokenizer, generator))
        assert gap(policy, rollouts) < 1e-5
    with policy.disable_adapter():
        assert gap(policy, rollouts) > 1e-3
    generator.close()


def test_refused_here():
    generator = VLLMGenerator(sleep=True)
    with pytest.raises(ValueError, match="`sleep` must be false on a CPU"):
        generator.start(Sampling())
    with pytest.raises(ValueError, match="importance_cap"):
        VLLMGenerator().start(Sampling(temperature=0.7, top_k=5), needs_logp=True)
    policy, tokenizer = tiny_policy()
    with pytest.raises(ValueError, match="needs a policy with adapters"):
        roll((policy, tokenizer, VLLMGenerator(lora="adapter", **SMALL)))


def test_prompts_without_room_are_refused(made):
    with pytest.raises(ValueError, match="vLLM's context of 256"):
        roll(made, Sampling(max_new_tokens=256))


def test_a_parameter_that_got_no_value_is_an_error(made):
    policy, _, generator = made
    roll(made)
    rest = [(name, value) for name, value in policy.state_dict().items() if "layers.1.mlp.down_proj" not in name]
    with pytest.raises(RuntimeError, match=r"do not match.*layers\.1\.mlp\.down_proj"), _expect_all_loaded():
        generator._engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(rest)})
    generator.sync(policy, 0)
    assert gap(policy, roll(made)) < 1e-5


def test_weight_transfer_fits_what_vllm_expects(made):
    """As far as a machine without a GPU goes: names, shapes and signatures, not the transfer itself."""
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

    policy = made[0]
    source = weight_source(policy, "bfloat16")
    sent = list(NCCLTrainerWeightTransferEngine._checked_iter(source, source.metadata()))
    assert [name for name, _ in sent] == [name for name, _ in hub_weights(policy)]
    assert {value.dtype for _, value in sent} == {torch.bfloat16}
    assert isinstance(VLLMServer("http://127.0.0.1:9"), VLLMWeightSyncClient)
    info = NCCLTrainerInitInfo(rank=0, master_address="127.0.0.1", master_port=1, world_size=2)
    assert info.is_sender
    assert info.packed
