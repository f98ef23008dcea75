"""Confusion and Cohen's kappa, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st

from lightning_focal.functional.agreement import cohen_kappa, confusion_matrix
from tests.functional.cases import given


def kappa_loop(first, second, classes):
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    expected = sum(first.count(k) / n * second.count(k) / n for k in range(classes))
    return math.nan if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


@pytest.mark.parametrize(("confusion", "kappa"), [
    ([[20, 5], [10, 15]], 0.4),  # Cohen's example: p_o = 0.7, p_e = 0.5
    ([[0, 5], [5, 0]], -1.0),
    ([[5, 0], [0, 5]], 1.0),
    ([[10, 2, 3], [1, 12, 2], [0, 4, 6]], 575 / 1055),  # p_o = 28/40, p_e = (15 * 11 + 15 * 18 + 10 * 11) / 1600
    ([[0, 0], [0, 0]], math.nan),  # chance alone explains these
    ([[0, 0], [0, 7]], math.nan),
])  # fmt: skip
def test_kappa_by_hand(confusion, kappa):
    found = torch.tensor(confusion)
    assert cohen_kappa(found) == cohen_kappa(found.T) == pytest.approx(kappa, abs=1e-12) or math.isnan(kappa)
    assert math.isnan(cohen_kappa(found)) == math.isnan(kappa)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_kappa_equals_a_loop(pairs):
    first, second = (list(labels) for labels in zip(*pairs, strict=True))
    found = cohen_kappa(confusion_matrix(torch.tensor(first), torch.tensor(second), 3))
    assert found == pytest.approx(kappa_loop(first, second, 3), abs=1e-12, nan_ok=True)


def test_confusion():
    first, second = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert confusion_matrix(first, second, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    mask = torch.tensor([True, False, True, False])
    assert confusion_matrix(first, second, 3, mask).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert confusion_matrix(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2).tolist() == [[0, 0], [0, 0]]
