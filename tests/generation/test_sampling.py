import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.generation import Sampling
from lightning_focal.generation.sampling import draw_uniforms, pick_tokens, truncate_logits

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1])


def plain_distribution(logits, temperature, top_k, top_p):
    """Temperature, then top-k, then the nucleus, by a plain loop over ranked tokens."""
    scores = np.asarray(logits, dtype=np.float64) / temperature
    order = list(np.argsort(-scores))
    if top_k:
        order = order[:top_k]
    weights = np.exp(scores[order] - scores.max())
    weights /= weights.sum()
    kept, mass = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        if mass >= top_p and top_p < 1:
            break
        kept.append((token, weight))
        mass += weight
    out = np.zeros(len(scores))
    for token, weight in kept:
        out[token] = weight / mass
    return out


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 2, 1.0), (1.7, 0, 0.8), (0.5, 3, 0.7), (1.0, 9, 0.999), (1.7, 0, 1e-6)],
)
def test_tokens_follow_the_distribution(temperature, top_k, top_p):
    """Chi-square against the plain distribution: 20000 draws, 99.9 % quantile for 4 degrees of freedom."""
    n = 20000
    uniforms = draw_uniforms([123], 1, n)[0, 0]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    tokens, _ = pick_tokens(LOGITS.expand(n, -1), uniforms, sampling)
    counts = np.bincount(tokens.numpy(), minlength=5)
    expected = n * plain_distribution(LOGITS.numpy(), temperature, top_k, top_p)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 18.47


@pytest.mark.parametrize(
    ("sampling", "uniform", "divisor"),
    [(Sampling(temperature=0.5, top_k=1), 0.1, 0.5), (Sampling(temperature=0), float("nan"), 1)],
    ids=["before truncation", "greedy reads no random number"],
)
def test_logp_by_hand(sampling, uniform, divisor):
    tokens, logp = pick_tokens(LOGITS[None], torch.tensor([uniform]), sampling)
    weights = np.exp(LOGITS.double().numpy() / divisor)
    assert tokens.tolist() == [2]
    assert logp.item() == pytest.approx(np.log(weights[2] / weights.sum()), abs=1e-6)
    assert pick_tokens(LOGITS[None].bfloat16(), torch.tensor([uniform]), sampling)[1].dtype == torch.float32  # widened


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50) | st.just(float("-inf")), min_size=2, max_size=12).filter(lambda x: max(x) > -60),
    st.floats(0, 1 - 2**-24, width=32),
    st.sampled_from([1e-6, 0.3, 1.0, 5.0]),
)
def test_impossible_tokens_are_never_drawn(logits, uniform, temperature):
    logits = torch.tensor([logits])
    token, logp = pick_tokens(logits, torch.tensor([uniform]), Sampling(temperature=temperature))
    assert logits[0, token[0]] > -torch.inf
    assert torch.isfinite(logp).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_barred_tokens_are_never_drawn_and_change_no_log_probability(temperature):
    uniforms, sampling = draw_uniforms([7], 1, 4000)[0, 0], Sampling(temperature=temperature)
    tokens, logp = pick_tokens(LOGITS.expand(4000, -1), uniforms, sampling, torch.tensor([2, 4]))
    assert set(tokens.tolist()) == ({0} if temperature == 0 else {0, 1, 3})
    torch.testing.assert_close(logp, LOGITS.log_softmax(-1)[tokens])
    if temperature:
        kept = LOGITS[[0, 1, 3]].softmax(-1) * 4000
        counts = torch.bincount(tokens, minlength=5)[[0, 1, 3]]
        assert float(((counts - kept) ** 2 / kept).sum()) < 13.82  # 99.9 % quantile for 2 degrees of freedom


def test_largest_random_number_stays_inside_the_vocabulary():
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, :3] = torch.tensor([0.1, 0.2, 0.3])
    token, _ = pick_tokens(logits, torch.tensor([1 - 2**-24]), Sampling())
    assert token.item() == 2
    token, _ = pick_tokens(logits.flip(1), torch.tensor([0.0]), Sampling())
    assert token.item() == 997


def test_ties_at_the_cut_stay():
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert truncate_logits(logits, top_k=1).isfinite().tolist() == [[True, True, True, False]]
    assert truncate_logits(logits) is logits


def test_random_numbers_depend_on_the_seed_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    draws = draw_uniforms([3, 4, 3], 2, 5)
    assert torch.get_rng_state().equal(state)
    assert draws.shape == (3, 2, 5)
    assert draws[0].equal(draws[2])
    assert not draws[0].equal(draws[1])
    assert draw_uniforms([3], 2, 9)[..., :5].equal(draws[:1])
    assert draw_uniforms([], 2, 9).shape == (0, 2, 9)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "min_new_tokens"),
    ],
)
def test_values_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        Sampling(**arguments)
