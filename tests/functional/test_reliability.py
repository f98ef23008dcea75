"""Informedness, mixing, and weight that is withheld."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lightning_focal import functional as fn
from tests import oracles
from tests.functional.cases import agree, batches, given, rows, tensors

NAN = float("nan")
SEEDS = st.integers(0, 2**32 - 1)


def test_2_000_ragged_cases_agree_with_the_loops():
    rng = np.random.default_rng(3)
    for scores, weights, mask in batches(seed=10):
        repeated = np.where(rng.random(scores.shape) < 0.5, NAN, np.round(rng.random(scores.shape)))
        s, b, m, again = tensors(scores, weights, mask, repeated)
        assert np.abs(fn.disagreement_sums(s, again, m).numpy() - oracles.disagreement(scores, repeated, mask)).max() < 1e-9
        values = np.where(rng.random(weights.shape) < 0.2, NAN, rng.random(weights.shape).round(1))
        moved = rng.dirichlet(np.ones(5), len(weights))
        spent, applies, noise = rng.random(weights.shape) < 0.4, weights > 0, rng.random(weights.shape)
        got = {
            "informed": fn.informed_weights(b, torch.from_numpy(values), power=2.0),
            "given back": fn.give_back(*tensors(moved, weights, spent)),
            "dropped": fn.rubric_dropout(*tensors(noise, applies), 0.5, 2),
        }
        expected = {
            "informed": rows(oracles.informed, weights, values),
            "given back": rows(oracles.give_back, moved, weights, spent),
            "dropped": rows(lambda *row: [c in oracles.dropped(*row, 0.5, 2) for c in range(5)], noise, applies),
        }
        for name, value in expected.items():
            agree(got[name], value, name)


@given(st.floats(0, 0.5), SEEDS)
def test_informedness_of_repeated_and_of_gold_verdicts_agree(error, seed):
    """Exactly in expectation: a judge that errs at one rate both ways has J = 1 - 2 error by either road."""
    either = fn.informedness(torch.tensor(2 * error * (1 - error), dtype=torch.float64))
    counts = torch.tensor([[1 - error, error], [error, 1 - error]], dtype=torch.float64)
    assert float(either) == pytest.approx(1 - 2 * error, abs=1e-6)
    assert float(fn.informedness_of_confusion(counts)) == pytest.approx(1 - 2 * error, abs=1e-12)


@pytest.mark.parametrize(("confusion", "expected"), [
    ([[5, 0], [0, 5]], 1.0),
    ([[5, 5], [5, 5]], 0.0),
    ([[1, 9], [9, 1]], 0.0),  # worse than chance is not negative
    ([[0, 0], [1, 5]], NAN),
    ([[6, 2], [1, 4]], 0.75 + 0.8 - 1),
])  # fmt: skip
def test_informedness_against_gold(confusion, expected):
    assert float(fn.informedness_of_confusion(torch.tensor(confusion))) == pytest.approx(expected, nan_ok=True)


@given(SEEDS, st.floats(0, 0.9), st.integers(1, 4))
def test_what_must_hold_of_withheld_weight(seed, share, least):
    rng = np.random.default_rng(seed)
    base = rng.dirichlet(np.ones(6), 3)
    moved, spent = rng.dirichlet(np.ones(6) / 2, 3), rng.random((3, 6)) < rng.choice([0.0, 0.3, 1.0])
    w, b, gives = tensors(moved, base, spent)
    out = fn.give_back(w, b, gives)
    torch.testing.assert_close(out.sum(-1), torch.ones(3, dtype=out.dtype))
    assert bool((out[gives] <= b[gives] + 1e-12).all())
    assert torch.equal(fn.give_back(w, b, torch.zeros_like(gives)), w)
    applies = torch.from_numpy(rng.random((3, 6)) < 0.8)
    stays = fn.rubric_dropout(torch.from_numpy(rng.random((3, 6))), applies, share, least)
    number = applies.sum(-1)
    assert not bool((stays & ~applies).any())
    assert bool((stays.sum(-1) >= torch.minimum(number, torch.tensor(least))).all())
    assert bool((number - stays.sum(-1) <= (share * number + 1e-6).floor()).all())


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.12, 0.14, 0.2, 0.5, NAN]), st.booleans()), max_size=30))
def test_patience_counts_like_the_loop(steps):
    state = (torch.full((1,), NAN, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    for (level, extra), expected in zip(steps, oracles.patience(*zip(*steps, strict=True), 0.05) if steps else [], strict=True):
        state = fn.patience_step(*state, torch.tensor([level], dtype=torch.float64), torch.tensor([extra]), 0.05)
        assert (float(state[0]), float(state[1])) == pytest.approx(expected, nan_ok=True)


def test_nothing_informed_leaves_the_base_weights():
    assert fn.informed_weights(torch.tensor([[0.25, 0.75]]), torch.zeros(1, 2)).tolist() == [[0.25, 0.75]]
    assert math.isnan(float(fn.informedness(torch.tensor(NAN))))
