from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken

from lightning_focal.generation import HFGenerator, Sampling, ScriptedGenerator
from lightning_focal.generation.assemble import check_request, eos_ids, make_rollouts
from lightning_focal.models.tiny import byte_tokenizer
from lightning_focal.thoughts import HARMONY, split_thought

from .helpers import make_prompts

ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"


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


def test_an_eos_that_is_an_ordinary_token_is_no_text_and_rows_are_as_long_as_the_longest(tiny):
    tokenizer = tiny[1]
    tokens = torch.tensor([[tokenizer("ab.c")["input_ids"], tokenizer(".abc")["input_ids"]]])
    rollouts = make_rollouts(make_prompts(tokenizer, ("q",)), tokenizer, tokens, eos=set(tokenizer(".")["input_ids"]))
    assert rollouts.texts == (("ab", ""),)
    assert rollouts.response_ids.shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("special", "ending", "responses", "texts", "thoughts"),
    [
        ((), "", ("<think>ab</think>c", "abc"), ("<think>ab</think>c", "abc"), (2, 0)),
        ((), "<think>\n", ("ab</think>c", "abc"), ("<think>\nab</think>c", "<think>\nabc"), (2, 3)),
        (("[THINK]", "[/THINK]", "[X]"), "", ("[THINK]ab[/THINK][X]c", "[X]a"), ("[THINK]ab[/THINK]c", "a"), (2, 0)),
        (("<|channel>", "<channel|>"), "", ("<|channel>thought\nab<channel|>c",), ("<|channel>thought\nab<channel|>c",), (2,)),
        (("<|end|>",), "", ("a<|end|>b",), ("ab",), (0,)),  # another format's
        (HARMONY, "", (f"{ANALYSIS}ab{FINAL}c",), (f"{ANALYSIS}ab{FINAL}c",), (2,)),
        (HARMONY, ANALYSIS, (f"ab{FINAL}c", "a"), (f"{ANALYSIS}ab{FINAL}c", f"{ANALYSIS}a"), (2, 1)),
    ],
)
def test_marks_of_thoughts_survive(special, ending, responses, texts, thoughts):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.chat_template += f"{{{{ {ending!r} }}}}"
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in responses]
    lengths = torch.tensor([[len(row) for row in rows]])
    tokens = torch.tensor([[row + [0] * (int(lengths.max()) - len(row)) for row in rows]])
    prompts = make_prompts(tokenizer, ("q",))
    rollouts = make_rollouts(prompts, tokenizer, tokens, eos={tokenizer.eos_token_id}, lengths=lengths)
    assert rollouts.texts == (texts,)
    assert rollouts.thought_tokens.tolist() == [list(thoughts)]
    assert rollouts.lengths.tolist() == lengths.tolist()  # of the response: what the prompt holds is no part of it
    assert rollouts.answers == (tuple(split_thought(text).answer for text in texts),)


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
