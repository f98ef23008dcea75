"""Random groups for the property tests, and the comparison with the loops."""

from __future__ import annotations

import hypothesis
import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from tests.oracles import ragged_batch


def tensors(*arrays):
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)


def batches(seed, batches=4, prompts=500):
    """``batches x prompts`` ragged cases, 2,000 as it stands."""
    rng = np.random.default_rng(seed)
    for _ in range(batches):
        yield ragged_batch(rng, prompts)


def rows(loop, *arrays):
    """A loop over one prompt at a time, for all prompts of the arrays."""
    return np.array([loop(*row) for row in zip(*arrays, strict=True)])


def agree(got, expected, name="", atol=1e-6):
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=atol, err_msg=name)


def given(*strategies, **named):
    """Thirty random cases: each of these tests stands beside a comparison with loops on 2,000."""
    return lambda test: settings(max_examples=30)(hypothesis.given(*strategies, **named)(test))


@st.composite
def groups(draw, most_prompts=3, judged=False, dtype=torch.float64):
    """``(scores, weights, mask)``; with ``judged`` everything counts."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    p, g, c = draw(st.integers(1, most_prompts)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    scores = rng.random((p, g, c))
    kind = draw(st.sampled_from(["graded", "binary", "all one", "all zero", "equal"]))
    scores = {
        "graded": scores,
        "binary": np.round(scores),
        "all one": np.ones_like(scores),
        "all zero": np.zeros_like(scores),
        "equal": np.full_like(scores, rng.random()),
    }[kind]
    mask = np.ones(scores.shape, dtype=bool) if judged else rng.random(scores.shape) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    points = rng.integers(1, 10, (p, c)).astype(float)
    weights = points / points.sum(-1, keepdims=True)
    scores, weights, mask = tensors(scores, weights, mask)
    return scores.to(dtype), weights.to(dtype), mask
