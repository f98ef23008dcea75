from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from lightning_focal.functional import cosine_ema_weight, ema_update
from tests.functional.cases import given
from tests.processes import run_ranks


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_the_schedule_meets_both_ends_and_only_rises(total, a, b):
    start, end = sorted((a, b))
    weights = [cosine_ema_weight(k, total, start, end) for k in sorted({0, 1, total // 3, total // 2, total})]
    assert cosine_ema_weight(0, total, start, end) == start
    assert cosine_ema_weight(total, total, start, end) == cosine_ema_weight(10 * total, total, start, end) == end
    assert all(start <= weight <= end for weight in weights)
    assert all(later >= earlier - 1e-15 for earlier, later in pairwise(weights))


def weights(seed, dtype=torch.float32, shapes=((3, 5), (), (7,), (0,), (64, 33))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.99, 0.9999, 1.0])
def test_equals_a_plain_loop(dtype, weight):
    teacher, policy = weights(0), weights(1, dtype)
    before = [(t.double().numpy().copy(), p.double().numpy().copy()) for t, p in zip(teacher, policy, strict=True)]
    ema_update(teacher, policy, weight)
    for got, p, (t, was) in zip(teacher, policy, before, strict=True):
        want = np.empty_like(t)
        for i in np.ndindex(t.shape):
            want[i] = weight * t[i] + (1 - weight) * was[i]
        error = np.abs(got.double().numpy() - want)
        assert (error <= 1e-6).all()
        assert (error <= 1e-7 * np.maximum(np.abs(t), np.abs(was)) * (1.5 if weight == 0.3 else 1)).all()
        assert got.dtype == torch.float32
        np.testing.assert_array_equal(p.double().numpy(), was)  # the policy is left alone


@pytest.mark.parametrize("weight", [0.0, 0.9999, 1.0])
def test_what_agrees_stays_bit_by_bit(weight):
    teacher = [torch.randn(1000), torch.tensor([3.4e38, 1e-45, 0.0, -0.0])]
    before = [t.clone() for t in teacher]
    ema_update(teacher, [t.clone() for t in teacher], weight)
    for got, was in zip(teacher, before, strict=True):
        torch.testing.assert_close(got, was, atol=0, rtol=0)


def test_policies_of_several_precisions_and_trained_parameters():
    teacher = [nn.Parameter(torch.zeros(2)), torch.zeros(2, dtype=torch.float64), torch.zeros(2)]
    policy = [nn.Parameter(torch.ones(2)), torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)]
    ema_update(teacher, policy, 0.75)
    assert all(t.tolist() == [0.25, 0.25] for t in teacher)
    assert teacher[0].requires_grad
    assert teacher[0].grad_fn is None
    ema_update([], [], 0.5)  # nothing to do


def shards(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    shapes = ((5, 3), (1, 2), (4,))  # uneven, and one of which a process has nothing
    whole, policy = weights(0, shapes=shapes), weights(1, torch.bfloat16, shapes)
    want = [t.clone() for t in whole]
    ema_update(want, policy, 0.99)
    for placement in (Shard(0), Replicate()):
        teacher = [nn.Parameter(distribute_tensor(t.clone(), mesh, [placement])) for t in whole]
        ema_update([*teacher], [distribute_tensor(p, mesh, [placement]) for p in policy], 0.99)
        for got, expected in zip(teacher, want, strict=True):
            assert torch.equal(got.full_tensor(), expected)
    sharded = distribute_tensor(whole[0], mesh, [Shard(0)])
    for other in (policy[0], distribute_tensor(policy[0], mesh, [Shard(1)])):
        try:
            ema_update([sharded], [other], 0.99)
        except ValueError as error:
            assert "`policy[0]` must be sharded like the teacher" in str(error)  # noqa: PT017 - in a process of its own
        else:
            raise AssertionError("shardings that differ were accepted")


@pytest.mark.slow  # two processes
def test_shards_move_like_the_whole():
    run_ranks(shards)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_device():
    teacher, policy = ([w.cuda() for w in weights(seed, dtype)] for seed, dtype in ((0, torch.float32), (1, torch.bfloat16)))
    want, targets = weights(0), weights(1, torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ema_update(teacher, policy, 0.99)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    ema_update(want, targets, 0.99)
    for got, expected in zip(teacher, want, strict=True):
        torch.testing.assert_close(got.cpu(), expected, atol=1e-6, rtol=1e-6)
