from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lightning_focal import functional as fn
from tests import oracles
from tests.functional.cases import agree, batches, given, tensors

NAMES = ("a", "b", "c", "d")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_over_criteria(levels):
    levels = [round(x, 6) for x in levels]
    x = torch.tensor([*levels, float("nan")], dtype=torch.float64)
    mean, low = sum(levels) / len(levels), min(levels)
    assert fn.worst_criterion(x)[0].item() == levels[int(fn.worst_criterion(x)[1])] == low
    assert fn.min_over_mean(x).item() == pytest.approx(low / mean if mean > 0 else 1.0)
    assert fn.gini(x).item() == pytest.approx(oracles.gini(levels), abs=1e-9)
    assert fn.spread_over_criteria(x).item() == pytest.approx(statistics.pstdev(levels), abs=1e-9)
    count = math.ceil(len(levels) / 4)
    assert fn.bottom_quartile_mean(x).item() == pytest.approx(sum(sorted(levels)[:count]) / count)


@pytest.mark.parametrize("nothing", [torch.zeros(0), torch.tensor([float("nan")])])
def test_nothing_seen(nothing):
    assert fn.worst_criterion(nothing)[1].item() == -1
    for function in (fn.min_over_mean, fn.gini, fn.spread_over_criteria, fn.bottom_quartile_mean):
        assert function(nothing).isnan()


def test_2_000_ragged_cases_of_counts_agree_with_the_loop():
    rng = np.random.default_rng(0)
    for scores, weights, mask in batches(seed=9):
        keys = [[str(rng.choice(NAMES)) for _ in range(int((w > 0).sum()))] for w in weights]
        present = (weights > 0)[:, None] & np.ones_like(mask)
        failed = present & ~mask & (rng.random(mask.shape) < 0.5)
        sums = fn.criterion_sums(*tensors(scores, mask, failed), fn.level_index(keys, NAMES, 5), len(NAMES))
        for field, expected in oracles.criterion_counts([(scores, mask, failed, keys)], NAMES).items():
            agree(getattr(sums, field), [expected[n] for n in NAMES], field)
        complete, valid = fn.strict_completion(*tensors(scores, mask))
        assert torch.equal(valid, torch.from_numpy(mask.any(-1)))
        assert torch.equal(complete, torch.from_numpy((np.where(mask, scores, 1.0) >= 1).all(-1) & mask.any(-1)))


def test_shares_and_threshold_by_hand():
    # first column: judged (1, 1), (1, 0); second: (0, -), failed on both of the second group
    scores = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]], [[True, False], [True, False]]])
    failed = torch.tensor([[[False, False], [False, False]], [[False, True], [False, True]]])
    shares = fn.criterion_sums(scores, mask, failed).shares()
    std = shares.pop("group_std")
    assert std[0].item() == pytest.approx(math.sqrt(0.5) / 2)
    assert std[1].isnan()  # never judged twice in a group
    expected = {"score": [0.75, 0.0], "all_pass": [0.5, 0.0], "all_fail": [0.0, 1.0], "contrastive": [0.5, 0.0]}
    expected |= {"not_applicable": [0.0, 0.25], "failed": [0.0, 0.5]}
    assert {name: share.tolist() for name, share in shares.items()} == expected
    half = torch.tensor([[[0.6], [0.8]]])
    assert fn.criterion_sums(half, threshold=0.5).all_pass.tolist() == fn.criterion_sums(half).all_fail.tolist() == [1.0]
    assert fn.strict_completion(half, threshold=0.7)[0].tolist() == [[False, True]]


def test_weights():
    w = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.0] * 4])
    assert fn.effective_number(w).tolist() == [4.0, 1.0, 0.0]
    sigma = torch.tensor([[0.95, 0.9, 0.89, 0.0]] * 3)
    torch.testing.assert_close(fn.saturated_mass(w, sigma), torch.tensor([0.5, 1.0, 0.0]))
