"""Sampler and update of many architectures beside transformers alone, which computes one sequence at a time."""

import pytest
import transformers

from .architectures import ALL, EXACT, PAGE, QUICK, left_out, line, measured


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ALL])
def test_sampler_and_update_compute_what_transformers_does(name):
    """Log-probabilities of the sampler, those of packed and of padded rows, and both gradients; rows are of unequal length."""
    if (why := left_out(name)) is not None:
        pytest.skip(why)
    found = measured(name)
    assert found.sampler == "refused" or len({*found.lengths}) > 2
    assert {key: gap for key, gap in found.gaps.items() if not gap <= EXACT} == {}
    assert all(map(str.startswith, (found.sampler, found.update), QUICK.get(name, ("", ""))))
    page = PAGE.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__}" in page:
        assert line(name, found) in page.splitlines()


def test_there_are_enough():
    assert sum(left_out(name) is None for name in ALL) >= 40
