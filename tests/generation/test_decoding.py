import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.generation import Sampling
from lightning_focal.generation.decoding import decode, decode_with_generate, plan_batches
from lightning_focal.generation.sampling import draw_uniforms

ROWS = [[5, 9, 33], [70, 8], [1, 2, 3, 4, 5, 6, 7]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 9), st.integers(1, 20))
def test_every_rollout_is_in_one_batch(lengths, group_size, batch_size):
    batches = plan_batches(lengths, group_size, batch_size)
    covered = [(p, g) for b in batches for p in b.prompts for g in range(b.start, b.stop)]
    assert sorted(covered) == [(p, g) for p in range(len(lengths)) for g in range(group_size)]
    assert all(len(b.prompts) * (b.stop - b.start) <= batch_size for b in batches)


def test_prompts_of_like_length_go_together_in_even_batches():
    batches = plan_batches([9, 1, 8, 2, 7], group_size=4, batch_size=12)
    assert [b.prompts for b in batches] == [(1, 3, 4), (2, 0)]


def test_both_loops_draw_the_same(tiny):
    model, _ = tiny
    draws = draw_uniforms([1, 2, 3], 4, 12)
    arguments = (model, ROWS, draws, Sampling(temperature=0.9, top_p=0.95))
    with torch.no_grad():
        tokens, logp = decode(*arguments, eos={258}, pad=0)
        other, other_logp = decode_with_generate(*arguments, eos={258}, pad=0)
    ended = (tokens == 258).long().cumsum(-1) - (tokens == 258).long() > 0
    assert tokens[~ended].equal(other[~ended])
    torch.testing.assert_close(logp[~ended], other_logp[~ended], atol=1e-5, rtol=0)


@pytest.mark.parametrize("loop", [decode, decode_with_generate])
def test_forced_length(tiny, loop):
    eos = set(range(0, 259, 2))
    draws = draw_uniforms([1, 2, 3], 4, 12)
    with torch.no_grad():
        forced, _ = loop(tiny[0], ROWS, draws, Sampling(max_new_tokens=12, min_new_tokens=12), eos=eos, pad=1)
        at_least, _ = loop(tiny[0], ROWS, draws, Sampling(max_new_tokens=12, min_new_tokens=5), eos=eos, pad=1)
    assert (forced % 2 == 1).all()
    assert at_least[..., :5].equal(forced[..., :5])
    assert (at_least[..., 5:] % 2 == 0).any(-1).float().mean() > 0.5


def test_tokens_follow_the_model(tiny):
    """Chi-square of first and second tokens among the four likeliest: 99.9 % quantile, freedom of all together."""
    model, n = tiny[0], 4000
    draws = draw_uniforms([9], n, 2)
    with torch.no_grad():
        tokens, _ = decode(model, [[5, 9, 33]], draws, Sampling(top_k=4), eos={258}, pad=1)
        firsts, seconds = tokens[0].unbind(1)
        after = {(): firsts} | {(first,): seconds[firsts == first] for first in firsts.unique().tolist()}
        chi_square = 0.0
        for before, drawn in after.items():
            best = model(torch.tensor([[5, 9, 33, *before]])).logits[0, -1].double().topk(4)
            expected = best.values.softmax(-1) * len(drawn)
            counts = torch.stack([(drawn == token).sum() for token in best.indices])
            assert int(counts.sum()) == len(drawn)
            chi_square += float(((counts - expected) ** 2 / expected).sum())
    assert len(after) == 5
    assert chi_square < 37.7  # 3 degrees of freedom each


def test_finished_rows_leave_and_change_nothing(tiny, monkeypatch):
    """Rows end one after another; the same rows alone, which never shrink to fewer, give the same tokens."""
    model, _ = tiny
    draws, sampling = draw_uniforms([4, 5, 6], 5, 30), Sampling(temperature=1.3)
    eos = set(range(0, 259, 12))  # about one token in twelve ends a response
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    with torch.no_grad():
        tokens, logp = decode(model, ROWS, draws, sampling, eos=eos, pad=1)
        hook.remove()
        assert sizes[0] == 3  # one prefill row a prompt
        assert sizes[1] == 15
        assert sizes[-1] < 8
        assert sizes[1:] == sorted(sizes[1:], reverse=True)
        for p in range(3):
            for g in range(5):
                alone, alone_logp = decode(model, [ROWS[p]], draws[p : p + 1, g : g + 1], sampling, eos=eos, pad=1)
                length = next((i + 1 for i, t in enumerate(alone[0, 0].tolist()) if t in eos), 30)
                assert tokens[p, g, :length].equal(alone[0, 0, :length])
                torch.testing.assert_close(logp[p, g, :length], alone_logp[0, 0, :length], atol=1e-5, rtol=0)


def test_stops_when_all_are_done(tiny):
    model, _ = tiny
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        decode(model, ROWS, draw_uniforms([1, 2, 3], 2, 50), Sampling(max_new_tokens=50), eos=set(range(259)), pad=0)
    hook.remove()
    assert len(calls) == 1
