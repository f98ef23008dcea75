import copy
import logging

import pytest
import torch

from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.generation import hf as module
from lightning_focal.models import load_policy, response_logp
from tests.helpers import adapted
from tests.models.architectures import flat, make

from .helpers import greedy, make_prompts, responses, reversed_prompts

SEEDS = [11, 12, 13, 14]


def roll(model, tokenizer, prompts=None, *, batch_size=64, dtype=None, group_size=3, seeds=None, **sampling):
    prompts = make_prompts(tokenizer) if prompts is None else prompts
    sampling = Sampling(**{"max_new_tokens": 24, **sampling})
    generator = HFGenerator(batch_size, dtype)
    return generator.generate(
        model, tokenizer, prompts, group_size=group_size, seeds=SEEDS if seeds is None else seeds, sampling=sampling
    )


def score(model, rollouts, temperature=1.0):
    with torch.no_grad():
        return response_logp(model, *flat(rollouts), temperature=temperature).reshape(rollouts.logp.shape)


@pytest.fixture(scope="module")
def early():
    """A policy that likes to end: its output layer favours eos."""
    model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=2&seed=3&std=0.1")
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = model.lm_head.weight.norm() * 0.4
    return model, tokenizer


def test_greedy_equals_a_plain_loop_and_generate(tiny):
    model, tokenizer = tiny
    rollouts = roll(model, tokenizer, temperature=0, group_size=2)
    for p, row in enumerate(rollouts.prompts.tokens):
        expected = greedy(model, row, 24, tokenizer.eos_token_id)
        assert responses(rollouts)[p] == [expected, expected]
    out = model.generate(rollouts.prompt_ids, attention_mask=rollouts.prompt_mask.long(), do_sample=False, max_new_tokens=24)
    width = rollouts.prompt_ids.shape[1]
    got = rollouts.response_ids[:, 0]
    assert got.equal(out[:, width : width + got.shape[1]])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6}, {"temperature": 1.4, "top_k": 20, "top_p": 0.9}])
def test_logp_is_what_a_trainer_computes(tiny, sampling):
    model, tokenizer = tiny
    rollouts = roll(model, tokenizer, **sampling)
    expected = score(model, rollouts, sampling.get("temperature", 1.0))
    torch.testing.assert_close(rollouts.logp, expected, atol=1e-4, rtol=0)


def test_batch_size_and_order_change_nothing(early):
    model, tokenizer = early
    prompts = make_prompts(tokenizer)
    whole = roll(model, tokenizer, prompts, group_size=5)
    assert len({len(r) for group in responses(whole) for r in group}) > 3  # lengths differ, so the batch shrinks
    for batch_size in (1, 7):
        assert responses(roll(model, tokenizer, prompts, group_size=5, batch_size=batch_size)) == responses(whole)
    turned = roll(model, tokenizer, reversed_prompts(prompts), group_size=5, seeds=SEEDS[::-1])
    assert responses(turned)[::-1] == responses(whole)
    assert turned.texts[::-1] == whole.texts


def test_seeds_alone_decide(tiny):
    """A longer limit continues the same responses; autocast is off while decoding."""
    model, tokenizer = tiny
    torch.manual_seed(0)
    first = roll(model, tokenizer, max_new_tokens=12)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = roll(model, tokenizer, max_new_tokens=12)
    assert responses(again) == responses(first)
    assert again.logp.equal(first.logp)
    assert torch.get_rng_state().equal(state)
    other = responses(roll(model, tokenizer, seeds=[11, 12, 13, 99], max_new_tokens=5))
    assert other[:3] == [[r[:5] for r in group] for group in responses(first)[:3]]
    assert other[3] != [r[:5] for r in responses(first)[3]]
    assert len({tuple(r) for r in responses(first)[0]}) == 3  # a group's rollouts differ


def test_truncation_and_eos(early):
    model, tokenizer = early
    rollouts = roll(model, tokenizer, group_size=6, max_new_tokens=6)
    end = tokenizer.eos_token_id
    for group, cut in zip(responses(rollouts), rollouts.truncated.tolist(), strict=True):
        for row, truncated in zip(group, cut, strict=True):
            assert end not in row[:-1]
            assert (row[-1] != end) == truncated
            assert not truncated or len(row) == 6
    assert rollouts.truncated.any()
    assert not rollouts.truncated.all()


def test_empty_responses(tiny):
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    model.generation_config.eos_token_id = list(range(len(tokenizer)))  # whatever comes first ends the response
    rollouts = roll(model, tokenizer)
    assert rollouts.response_ids.shape == (4, 3, 1)
    assert rollouts.response_mask.all()
    assert not rollouts.truncated.any()
    assert rollouts.texts == (("",) * 3,) * 4


def test_training_flags_and_gradients_survive():
    model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&std=0.2")
    model.train()
    model.model.layers[0].mlp.eval()  # a part that was frozen on purpose
    rollouts = roll(model, tokenizer)
    assert model.training
    assert not model.model.layers[0].mlp.training
    assert not rollouts.logp.requires_grad
    assert not rollouts.logp.is_inference()
    response_logp(
        model, rollouts.prompt_ids, rollouts.prompt_mask, rollouts.response_ids[:, 0], rollouts.response_mask[:, 0]
    ).sum().backward()
    with pytest.raises(ValueError, match="`seeds`"):
        roll(model, tokenizer, seeds=[1])
    assert model.training


def test_low_precision_copy_follows_the_policy():
    model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&std=0.2")
    prompts, sampling = make_prompts(tokenizer), Sampling(max_new_tokens=8)
    generator = HFGenerator(dtype="bfloat16")
    generator.sync(model, 4)

    def run():
        return generator.generate(model, tokenizer, prompts, group_size=2, seeds=SEEDS, sampling=sampling)

    first = run()
    assert first.version == 4
    reference = copy.deepcopy(model)
    for parameter in reference.parameters():
        parameter.data = parameter.data.bfloat16()
    torch.testing.assert_close(first.logp, score(reference, first), atol=0.05, rtol=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.5)
    assert responses(run()) == responses(first)  # weights of the last sync
    generator.sync(model, 5)
    second = run()
    assert second.version == 5
    assert responses(second) != responses(first)
    assert model.dtype == torch.float32


def test_models_take_turns_in_one_copy(tiny):
    """A second model of the same architecture is sampled from the copy that is there; another architecture gets its own."""
    (policy, tokenizer), (other, _) = tiny, load_policy("random:tiny-llama?hidden=32&layers=1&seed=9&std=0.2")
    teacher = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))

    def rolls(generator, model):
        generator.sync(model, 0)
        arguments = {"group_size": 2, "seeds": SEEDS, "sampling": Sampling(max_new_tokens=8)}
        return responses(generator.generate(model, tokenizer, make_prompts(tokenizer), **arguments))

    models = (policy, teacher, other)
    alone = [rolls(HFGenerator(dtype="bfloat16"), model) for model in models]
    assert alone[0] != alone[1] != alone[2] != alone[0]
    generator, made = HFGenerator(dtype="bfloat16"), []
    for number in (0, 1, 0, 2, 0):
        assert rolls(generator, models[number]) == alone[number]
        made.append(generator._copy)
    assert made[0] is made[1] is made[2]
    for dtype in (None, "float32"):  # none where none is needed
        generator = HFGenerator(dtype=dtype)
        generator.sync(policy, 1)
        assert generator._copy is None


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_adapters_take_part(dtype):
    model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&std=0.2")
    plain = roll(model, tokenizer, max_new_tokens=12)
    policy = adapted(model, 0.2)
    rollouts = roll(policy, tokenizer, dtype=dtype, max_new_tokens=12)
    assert responses(rollouts) != responses(plain)
    torch.testing.assert_close(rollouts.logp, score(policy, rollouts), atol=1e-4, rtol=0)


def test_sliding_windows_and_another_generation_config(caplog):
    model, tokenizer = make("gemma3_text")
    model.generation_config.eos_token_id = 258
    stored = model.generation_config
    stored.repetition_penalty, stored.suppress_tokens = 5.0, list(range(200))  # must not touch what is sampled
    with caplog.at_level(logging.WARNING):
        rollouts = roll(model, tokenizer, max_new_tokens=12)
        small = roll(model, tokenizer, max_new_tokens=12, batch_size=3)
    assert model.generation_config is stored
    assert responses(small) == responses(rollouts)
    assert not [r for r in caplog.records if r.name == module.__name__]
    torch.testing.assert_close(rollouts.logp, score(model, rollouts), atol=1e-4, rtol=0)
    best = roll(model, tokenizer, max_new_tokens=12, temperature=0, group_size=1)
    for p, row in enumerate(best.prompts.tokens):
        assert responses(best)[p] == [greedy(model, row, 12, 258)]


def test_context_is_checked():
    model, tokenizer = load_policy("random:tiny-llama?hidden=32&layers=1&context=64")
    with pytest.raises(ValueError, match=r"'p1' has .* context of 64"):
        roll(model, tokenizer, make_prompts(tokenizer, ("Hi", "x" * 40)), seeds=[1, 2])


@pytest.mark.parametrize(("arguments", "name"), [({"batch_size": 0}, "batch_size"), ({"dtype": "int8"}, "dtype")])
def test_values_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        HFGenerator(**arguments)


@pytest.mark.slow
def test_real_model_greedy_on_64_prompts_of_mixed_length(smollm):
    """Greedy tokens are those of transformers' own ``generate()``, log-probabilities of drawn ones a trainer's."""
    model, tokenizer = smollm
    topics = (
        "rivers",
        "the moon",
        "bread",
        "old maps of the north sea",
        "chess",
        "a very long walk in the rain",
        "bees",
        "glass",
    )
    asks = ("Name three {}.", "Why {}?", "Write one sentence about {}.", "{}", "What is the best thing about {}, and the worst?")
    texts = tuple((asks[i % 5] + " Say it again." * (i % 4)).format(topics[i // 8]) + f" {i}" for i in range(64))
    prompts = make_prompts(tokenizer, texts)
    assert len({len(row) for row in prompts.tokens}) > 8
    best = roll(model, tokenizer, prompts, temperature=0, group_size=1, seeds=range(64), max_new_tokens=16)
    expected = []
    for start in range(0, 64, 16):  # own batches, own padding
        part = best.prompt_ids[start : start + 16], best.prompt_mask[start : start + 16].long()
        out = model.generate(part[0], attention_mask=part[1], do_sample=False, max_new_tokens=16)
        expected += out[:, part[0].shape[1] :].tolist()
    for got, wanted in zip(responses(best), expected, strict=True):
        assert got[0] == wanted[: len(got[0])]
        assert len(got[0]) == 16 or got[0][-1] == tokenizer.eos_token_id
    sampled = roll(model, tokenizer, make_prompts(tokenizer, texts[:3]), group_size=2, seeds=[1, 2, 3], max_new_tokens=12)
    torch.testing.assert_close(sampled.logp, score(model, sampled), atol=1e-4, rtol=0)


@pytest.mark.parametrize("own", [True, False])
def test_every_response_is_told_once_as_its_rollout_says(early, own, monkeypatch):
    """Also before the batch it is in has ended; the first batch of a kind, which may be decoded anew, after it was compared."""
    model, tokenizer = early
    if not own:
        monkeypatch.setattr("lightning_focal.generation.hf.why_not_cached", lambda bare: "not here")
    prompts, generator, sampling = make_prompts(tokenizer), HFGenerator(batch_size=6), Sampling(max_new_tokens=40)
    told = []
    for _ in range(2):
        told.clear()
        rollouts = generator.generate(
            model, tokenizer, prompts, group_size=3, seeds=[1, 2, 3, 4], sampling=sampling, finished=lambda *of: told.append(of)
        )
        expected = {(p, g, text) for p, texts in enumerate(rollouts.texts) for g, text in enumerate(texts)}
        assert len(told) == 12
        assert set(told) == expected
    lengths = rollouts.lengths.flatten().tolist()
    order = [int(rollouts.lengths[p, g]) for p, g, _ in told]
    assert sorted(lengths) != lengths
    if own:  # within each batch of two prompts the short ones come first
        assert order[:6] == sorted(order[:6])
        assert order[6:] == sorted(order[6:])
