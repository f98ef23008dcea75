from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lightning_focal.generation import HFGenerator, Sampling, ScriptedGenerator
from lightning_focal.generation.assemble import check_request, eos_ids, left_pad, make_rollouts

from .helpers import make_prompts


def test_cut_after_the_first_eos(tiny):
    _, tokenizer = tiny
    a, b, end = *tokenizer("ab")["input_ids"], tokenizer.eos_token_id
    tokens = torch.tensor([[[a, end, b, end, b], [end, a, a, a, a], [a, b, a, b, a]]])
    logp = -torch.arange(1.0, 16.0).reshape(1, 3, 5)
    rollouts = make_rollouts(make_prompts(tokenizer, ("q",)), tokenizer, tokens, eos={end}, logp=logp, version=3)
    pad = tokenizer.pad_token_id
    assert rollouts.response_ids.tolist() == [[[a, end, pad, pad, pad], [end, pad, pad, pad, pad], [a, b, a, b, a]]]
    assert rollouts.lengths.tolist() == [[2, 1, 5]]
    assert rollouts.truncated.tolist() == [[False, False, True]]
    assert rollouts.texts == (("a", "", "ababa"),)
    assert rollouts.logp.tolist() == [[[-1, -2, 0, 0, 0], [-6, 0, 0, 0, 0], [-11, -12, -13, -14, -15]]]


def test_trimmed_to_the_longest(tiny):
    _, tokenizer = tiny
    a, end = *tokenizer("a")["input_ids"], tokenizer.eos_token_id
    tokens = torch.tensor([[[a, end, a, a], [end, a, a, a]]])
    rollouts = make_rollouts(make_prompts(tokenizer, ("q",)), tokenizer, tokens, eos={end})
    assert rollouts.response_ids.shape == (1, 2, 2)


def test_an_eos_that_is_an_ordinary_token_is_no_text(tiny):
    _, tokenizer = tiny
    tokens = torch.tensor([[tokenizer("ab.c")["input_ids"]]])
    rollouts = make_rollouts(make_prompts(tokenizer, ("q",)), tokenizer, tokens, eos=set(tokenizer(".")["input_ids"]))
    assert rollouts.texts == (("ab",),)


def test_pad_equal_to_eos_is_told_apart_by_the_mask(tiny):
    import copy

    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.pad_token = tokenizer.eos_token
    end, a = tokenizer.eos_token_id, *tokenizer("a")["input_ids"]
    prompts = replace(make_prompts(tokenizer, ("q", "r")), tokens=((end, a, end), (a,)))
    rollouts = make_rollouts(prompts, tokenizer, torch.tensor([[[a, end, a]], [[a, a, a]]]), eos={end})
    assert rollouts.prompt_mask.tolist() == [[True, True, True], [False, False, True]]
    assert rollouts.response_ids.tolist() == [[[a, end, end]], [[a, a, a]]]
    assert rollouts.response_mask.tolist() == [[[True, True, False]], [[True, True, True]]]


def test_eos_of_config_and_tokenizer_both_count():
    tokenizer = SimpleNamespace(eos_token_id=3)
    assert eos_ids(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[5, 7])), tokenizer) == {3, 5, 7}
    assert eos_ids(SimpleNamespace(), tokenizer) == {3}
    with pytest.raises(ValueError, match="no eos"):
        eos_ids(SimpleNamespace(), SimpleNamespace(eos_token_id=None))


def test_left_pad_of_equal_rows():
    ids, mask = left_pad([[1, 2], [3, 4]], pad=9)
    assert ids.tolist() == [[1, 2], [3, 4]]
    assert mask.all()


def test_requests_that_cannot_be_met(tiny):
    prompts = make_prompts(tiny[1], ("a", "b"))
    with pytest.raises(ValueError, match=r"`prompts.tokens` must be filled"):
        check_request(replace(prompts, tokens=()), 1, [0, 0])
    with pytest.raises(ValueError, match="'p1' must hold"):
        check_request(replace(prompts, tokens=((1,), ())), 1, [0, 0])
    with pytest.raises(ValueError, match="`group_size`"):
        check_request(prompts, 0, [0, 0])
    with pytest.raises(ValueError, match="`seeds`"):
        check_request(prompts, 1, [0])


def test_no_prompts_give_no_rollouts(tiny):
    """What a process is given where a batch does not suffice for all."""
    policy, tokenizer = tiny
    for generator in (HFGenerator(), ScriptedGenerator(["a"])):
        rollouts = generator.generate(
            policy, tokenizer, make_prompts(tokenizer, ()), group_size=3, seeds=[], sampling=Sampling(max_new_tokens=4)
        )
        assert rollouts.response_ids.shape[:2] == (0, 3)
        assert rollouts.texts == ()
