from __future__ import annotations

import os
import pickle
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_focal.functional import criterion_sums, focal_weights, gini, inverse_reward_projection, level_index
from lightning_focal.metrics import CriterionBalance
from tests import oracles
from tests.functional.cases import tensors

NAMES = ("a", "b", "c")


def batch(seed, prompts=6):
    rng = np.random.default_rng(seed)
    scores, weights, mask = oracles.ragged_batch(rng, prompts, most_rollouts=4, most_criteria=3)
    keys = [[str(rng.choice(NAMES)) for _ in range(int((w > 0).sum()))] for w in weights]
    scores, weights, mask = tensors(scores, weights, mask)
    sigma = inverse_reward_projection(scores, weights, mask)
    return scores, mask, keys, focal_weights(sigma, weights, mask.any(1)), sigma


def update(metric, case, rows=slice(None)):
    scores, mask, keys, weights, sigma = case
    metric.update(scores[rows], mask[rows], keys[rows], weights=weights[rows], saturation=sigma[rows])


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], equal_nan=True, rtol=0, atol=1e-12)


def test_by_hand():
    metric = CriterionBalance(["a", "b"])
    weights, sigma = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.95, 0.5]])
    metric.update(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), weights=weights, saturation=sigma)
    values = metric.compute()
    assert values["score"].tolist() == [1.0, 0.5]
    assert values["all_pass"].tolist() == [1.0, 0.0]
    assert values["contrastive"].tolist() == [0.0, 1.0]
    assert values["weight"].tolist() == [0.25, 0.75]
    assert values["saturation"].tolist() == pytest.approx([0.95, 0.5])
    scalars = {"worst": 0.5, "worst_index": 1, "min_over_mean": 2 / 3, "gini": 1 / 6, "std": 0.25, "bottom_quartile": 0.5}
    scalars |= {"strict_completion": 0.5, "effective_number": 1 / (0.0625 + 0.5625), "saturated_mass": 0.25}
    for name, value in scalars.items():
        assert values[name].item() == pytest.approx(value), name
    assert metric.worst_name() == "b"


def test_batches_pool_and_agree_with_the_functions():
    whole, parts, case = CriterionBalance(NAMES), CriterionBalance(NAMES), batch(0, prompts=12)
    update(whole, case)
    for rows in (slice(0, 5), slice(5, 12)):
        update(parts, case, rows)
    same(whole.compute(), parts.compute())
    scores, mask, keys, *_ = case
    shares = criterion_sums(scores, mask, None, level_index(keys, NAMES, 3), 3).shares()
    same(shares, {name: whole.compute()[name] for name in shares})
    torch.testing.assert_close(whole.compute()["gini"], gini(shares["score"]))


def test_one_name_nothing_seen_and_no_names():
    metric = CriterionBalance(["a"])
    metric.update(torch.rand(1, 2, 1), torch.zeros(1, 2, 1, dtype=torch.bool))
    assert metric.compute()["score"].isnan().tolist() == [True]
    assert metric.worst_name() is None
    metric.update(torch.ones(1, 2, 1))
    assert metric.compute()["score"].tolist() == [1.0]
    empty = CriterionBalance([])
    empty.update(torch.rand(1, 2, 0))
    assert empty.worst_name() is None


def test_torchmetrics_api_and_state():
    metric, case = CriterionBalance(NAMES), batch(1)
    update(metric, case)
    other = CriterionBalance(NAMES)
    other.load_state_dict(metric.state_dict())
    other.update(torch.rand(0, 2, 3))
    same(other.compute(), metric.compute())
    same(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())
    copy = metric.clone()
    metric.reset()
    assert metric.judged_sum.sum() == 0
    assert copy.judged_sum.sum() > 0


def test_errors():
    with pytest.raises(ValueError, match="`names` must be unique"):
        CriterionBalance(["a", "a"])
    with pytest.raises(ValueError, match="got 'd'"):
        CriterionBalance(NAMES).update(torch.rand(1, 1, 1), keys=[["d"]])
    with pytest.raises(ValueError, match="C = 3 columns"):
        CriterionBalance(NAMES).update(torch.rand(1, 1, 1))
    with pytest.raises(ValueError, match="must be given together"):
        CriterionBalance(["a"]).update(torch.rand(1, 1, 1), weights=torch.ones(1, 1))


def _rank(rank, port, queue):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    metric = CriterionBalance(NAMES)
    update(metric, batch(2, prompts=8), slice(4 * rank, 4 * rank + 4))
    queue.put({name: value.tolist() for name, value in metric.compute().items()})
    dist.destroy_process_group()


def test_two_processes_agree_with_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, args=(port, queue), nprocs=2)
    one = CriterionBalance(NAMES)
    update(one, batch(2, prompts=8))
    for _ in range(2):
        for name, value in queue.get().items():
            torch.testing.assert_close(
                torch.tensor(value).double(), one.compute()[name].double(), equal_nan=True, rtol=0, atol=1e-6
            )
