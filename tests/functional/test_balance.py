from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.functional import (
    bottom_quartile_mean,
    criterion_sums,
    effective_number,
    gini,
    level_index,
    min_over_mean,
    saturated_mass,
    spread_over_criteria,
    strict_completion,
    worst_criterion,
)
from tests import oracles
from tests.functional.cases import batches, tensors

LEVELS = st.lists(st.floats(0, 1), min_size=1, max_size=9)
NAMES = ("a", "b", "c", "d")


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@given(LEVELS)
def test_over_criteria(levels):
    levels = [round(x, 6) for x in levels]
    x = double([*levels, float("nan")])
    mean, low = sum(levels) / len(levels), min(levels)
    assert worst_criterion(x)[0].item() == low
    assert levels[int(worst_criterion(x)[1])] == low
    assert min_over_mean(x).item() == pytest.approx(low / mean if mean > 0 else 1.0)
    assert gini(x).item() == pytest.approx(oracles.gini(levels), abs=1e-9)
    assert spread_over_criteria(x).item() == pytest.approx(statistics.pstdev(levels), abs=1e-9)
    count = math.ceil(len(levels) / 4)
    assert bottom_quartile_mean(x).item() == pytest.approx(sum(sorted(levels)[:count]) / count)


def test_nothing_seen():
    nothing = double([float("nan")])
    assert worst_criterion(nothing)[1].item() == -1
    for function in (min_over_mean, gini, spread_over_criteria, bottom_quartile_mean):
        assert function(nothing).isnan()
        assert function(nothing[:0]).isnan()


def test_10_000_ragged_cases_of_counts_agree_with_the_loop():
    rng = np.random.default_rng(0)
    for scores, weights, mask in batches(seed=9):
        keys = [[str(rng.choice(NAMES)) for _ in range(int((w > 0).sum()))] for w in weights]
        present = (weights > 0)[:, None] & np.ones_like(mask)
        failed = present & ~mask & (rng.random(mask.shape) < 0.5)
        sums = criterion_sums(*tensors(scores, mask, failed), level_index(keys, NAMES, 5), len(NAMES))
        for field, expected in oracles.criterion_counts([(scores, mask, failed, keys)], NAMES).items():
            np.testing.assert_allclose(getattr(sums, field), [expected[n] for n in NAMES], rtol=0, atol=1e-6, err_msg=field)
        complete, valid = strict_completion(*tensors(scores, mask))
        for p in range(len(scores)):
            for i in range(scores.shape[1]):
                kept = scores[p, i][mask[p, i]]
                assert valid[p, i] == (len(kept) > 0)
                assert complete[p, i] == (len(kept) > 0 and all(x >= 1 for x in kept))


def test_shares_by_hand():
    # first column: judged (1, 1), (1, 0); second: (0, -), failed on both of the second group
    scores = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]], [[True, False], [True, False]]])
    failed = torch.tensor([[[False, False], [False, False]], [[False, True], [False, True]]])
    shares = criterion_sums(scores, mask, failed).shares()
    assert shares["score"].tolist() == [0.75, 0.0]
    assert shares["group_std"][0].item() == pytest.approx(math.sqrt(0.5) / 2)
    assert shares["group_std"][1].isnan()  # never judged twice in a group
    assert shares["all_pass"].tolist() == [0.5, 0.0]
    assert shares["all_fail"].tolist() == [0.0, 1.0]
    assert shares["contrastive"].tolist() == [0.5, 0.0]
    assert shares["not_applicable"].tolist() == [0.0, 0.25]
    assert shares["failed"].tolist() == [0.0, 0.5]


def test_sums_of_parts_add_up():
    scores = torch.rand(6, 3, 2).round()
    parts = criterion_sums(scores[:2]) + criterion_sums(scores[2:])
    for name, value in criterion_sums(scores).shares().items():
        torch.testing.assert_close(parts.shares()[name], value, equal_nan=True)


def test_threshold():
    scores = torch.tensor([[[0.6], [0.8]]])
    assert criterion_sums(scores, threshold=0.5).all_pass.tolist() == [1.0]
    assert criterion_sums(scores).all_fail.tolist() == [1.0]
    assert strict_completion(scores, threshold=0.7)[0].tolist() == [[False, True]]


def test_weights():
    w = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.0] * 4])
    assert effective_number(w).tolist() == [4.0, 1.0, 0.0]
    sigma = torch.tensor([[0.95, 0.9, 0.89, 0.0]] * 3)
    torch.testing.assert_close(saturated_mass(w, sigma), torch.tensor([0.5, 1.0, 0.0]))
    with pytest.raises(ValueError, match="`saturation` must be"):
        saturated_mass(w, sigma[:2])


def test_errors():
    with pytest.raises(ValueError, match="`n`, the number of names"):
        criterion_sums(torch.rand(1, 2, 3), index=torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`levels` must be \[K\]"):
        gini(torch.rand(2, 2))
