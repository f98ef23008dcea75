"""Informedness, mixing, weight that is withheld, agreement, and diagnostics: against loops and NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lightning_focal import functional as fn
from lightning_focal.functional import length_correlation, repeat_variance
from lightning_focal.functional.agreement import cohen_kappa, confusion_matrix
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


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.12, 0.14, 0.2, 0.5, NAN]), st.booleans()), max_size=30))
def test_patience_counts_like_the_loop(steps):
    state = (torch.full((1,), NAN, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    for (level, extra), expected in zip(steps, oracles.patience(*zip(*steps, strict=True), 0.05) if steps else [], strict=True):
        state = fn.patience_step(*state, torch.tensor([level], dtype=torch.float64), torch.tensor([extra]), 0.05)
        assert (float(state[0]), float(state[1])) == pytest.approx(expected, nan_ok=True)


def test_nothing_informed_leaves_the_base_weights():
    assert fn.informed_weights(torch.tensor([[0.25, 0.75]]), torch.zeros(1, 2)).tolist() == [[0.25, 0.75]]
    assert math.isnan(float(fn.informedness(torch.tensor(NAN))))


def kappa_loop(first, second, classes):
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    expected = sum(first.count(k) / n * second.count(k) / n for k in range(classes))
    return math.nan if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_kappa_equals_a_loop(pairs):
    first, second = (list(labels) for labels in zip(*pairs, strict=True))
    found = cohen_kappa(confusion_matrix(torch.tensor(first), torch.tensor(second), 3))
    assert found == pytest.approx(kappa_loop(first, second, 3), abs=1e-12, nan_ok=True)


def test_confusion():
    assert math.isnan(cohen_kappa(torch.zeros(2, 2, dtype=torch.long)))
    first, second = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert confusion_matrix(first, second, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    mask = torch.tensor([True, False, True, False])
    assert confusion_matrix(first, second, 3, mask).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert confusion_matrix(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2).tolist() == [[0, 0], [0, 0]]


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(5, 6, 4, generator=generator, dtype=torch.float64).round(decimals=1)
    mask = torch.rand(5, 6, 4, generator=generator) < 0.7
    return scores, mask, torch.randint(1, 9, (5, 6), generator=generator), generator


@pytest.mark.parametrize("seed", range(3))
def test_correlation_with_length_is_numpys(seed):
    scores, mask, lengths, _ = drawn(seed)
    scores[0], lengths[1] = 0.5, 7  # what does not vary is correlated with nothing
    got = length_correlation(scores.masked_fill(~mask, torch.nan), lengths, mask)
    for p, c in np.ndindex(5, 4):
        kept = mask[p, :, c]
        s, n = scores[p, kept, c].numpy(), lengths[p, kept].numpy()
        varies = len(s) and np.ptp(s) > 0 and np.ptp(n) > 0
        expected = np.corrcoef(s, n)[0, 1] if varies else math.nan
        assert float(got[p, c]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    whole, counted = length_correlation(scores, lengths), length_correlation(scores, lengths, torch.ones_like(mask))
    torch.testing.assert_close(whole, counted, equal_nan=True, rtol=0, atol=1e-12)


def test_variance_of_a_judge_that_was_asked_twice():
    scores, mask, _, generator = drawn(0)
    repeated = torch.rand(5, 6, 4, generator=generator, dtype=torch.float64)
    repeated[torch.rand(5, 6, 4, generator=generator) < 0.5] = torch.nan
    got = repeat_variance(scores, repeated, mask)
    for p, c in np.ndindex(5, 4):
        pairs = [
            (a - b) ** 2 / 2 for a, b, m in zip(scores[p, :, c], repeated[p, :, c], mask[p, :, c], strict=True) if m and b == b
        ]
        assert float(got[p, c]) == pytest.approx(np.mean(pairs) if pairs else math.nan, abs=1e-12, nan_ok=True)
    # verdicts flipped at the rate e, independently: J = e (1 - e)
    truth = torch.rand(1, 200_000, 1, generator=generator) < 0.5
    one, two = ((truth ^ (torch.rand(truth.shape, generator=generator) < 0.2)).double() for _ in range(2))
    assert float(repeat_variance(one, two)) == pytest.approx(0.2 * 0.8, abs=2e-3)
