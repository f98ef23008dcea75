"""Diagnostics against NumPy and SciPy-free loops over groups and criteria."""

import math

import numpy as np
import pytest
import torch

from lightning_focal.functional import length_correlation, repeat_variance


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
