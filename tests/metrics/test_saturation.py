from __future__ import annotations

import os
import pickle
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_focal.functional import level_index, level_sums
from lightning_focal.metrics import CriterionSaturation
from tests import oracles
from tests.functional.cases import tensors

NAMES = ("a", "b", "c")


def ragged(seed=0, prompts=6):
    rng = np.random.default_rng(seed)
    scores, weights, mask = oracles.ragged_batch(rng, prompts, most_rollouts=4, most_criteria=3)
    keys = [[str(rng.choice(NAMES)) for _ in range(int((w > 0).sum()))] for w in weights]
    return scores, weights, mask, keys


def expected(batches, temperature=1.0):
    above, below = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0.0)
    for scores, weights, mask, keys in batches:
        for p, row in enumerate(keys):
            projected, judged = oracles.projection_sums(scores[p], weights[p], mask[p], temperature)
            for c, key in enumerate(row):
                above[key] += projected[c]
                below[key] += judged[c]
    return torch.tensor([above[n] / below[n] if below[n] else float("nan") for n in NAMES], dtype=torch.float64)


def update(metric, case):
    scores, weights, mask, keys = case
    metric.update(*tensors(scores, weights, mask), keys=keys)


def test_by_hand_on_a_ragged_mask():
    # prompt 1: R = (1, 0), q = (0.731059, 0.268941), "a" = 0.731059 of 1, "b" = 0.731059 of 0.731059
    # prompt 2: only "a", judged 0.5 on its one valid rollout
    scores = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    metric = CriterionSaturation(NAMES)
    metric.update(scores, weights, mask, keys=[["a", "b"], ["a"]])
    torch.testing.assert_close(
        metric.compute(),
        torch.tensor([(0.731059 + 0.5) / 2, 1.0, float("nan")], dtype=torch.float64),
        equal_nan=True,
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_pools_batches_as_the_loop(temperature):
    cases = [ragged(seed) for seed in range(20)]
    metric = CriterionSaturation(NAMES, temperature)
    for case in cases:
        update(metric, case)
    torch.testing.assert_close(metric.compute(), expected(cases, temperature), rtol=0, atol=1e-9)


def test_two_criteria_of_a_prompt_share_a_level():
    metric = CriterionSaturation(["a"])
    metric.update(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.5, 0.5]]), keys=[["a", "a"]])
    assert metric.compute().tolist() == [0.5]


def test_columns_are_names_without_keys():
    metric = CriterionSaturation(["a", "b"])
    metric.update(torch.tensor([[[1.0, 0.25]]]), torch.tensor([[0.5, 0.5]]))
    assert {k: v.item() for k, v in metric.as_dict().items()} == {"a": 1.0, "b": 0.25}
    with pytest.raises(ValueError, match="C = 2 columns"):
        metric.update(torch.rand(1, 2, 3), torch.rand(1, 3))


def test_unknown_key_is_named():
    with pytest.raises(ValueError, match=r"`keys\[0\]` must be names of levels \(a, b, c\), got 'd'"):
        CriterionSaturation(NAMES).update(torch.rand(1, 1, 1), torch.rand(1, 1), keys=[["d"]])
    with pytest.raises(ValueError, match="at most C = 1 entries, got 2"):
        CriterionSaturation(NAMES).update(torch.rand(1, 1, 1), torch.rand(1, 1), keys=[["a", "b"]])


def test_constructor_errors():
    with pytest.raises(ValueError, match="`names` must be unique"):
        CriterionSaturation(["a", "a"])
    with pytest.raises(ValueError, match="`temperature` must be > 0"):
        CriterionSaturation(["a"], temperature=0)


def test_sums_are_what_update_adds():
    scores, weights, mask, keys = ragged(1)
    one, two = CriterionSaturation(NAMES), CriterionSaturation(NAMES)
    update(one, (scores, weights, mask, keys))
    sums = two.sums(*tensors(scores, weights, mask), keys=keys)
    assert two.judged.sum() == 0
    two.update_from_sums(*sums)
    assert torch.equal(one.compute().nan_to_num(-1), two.compute().nan_to_num(-1))
    with pytest.raises(ValueError, match=r"`judged` must be \[K\] = \(3,\), got \(2,\)"):
        two.update_from_sums(torch.zeros(3), torch.zeros(2))


def test_state_dict_round_trip():
    metric = CriterionSaturation(NAMES)
    update(metric, ragged(2))
    assert set(metric.state_dict()) == {"projected", "judged"}
    other = CriterionSaturation(NAMES)
    other.load_state_dict(metric.state_dict())
    update(metric, ragged(3))
    update(other, ragged(3))
    assert torch.equal(metric.compute().nan_to_num(-1), other.compute().nan_to_num(-1))


def test_torchmetrics_api():
    metric = CriterionSaturation(["a"])
    weights = torch.ones(1, 1)
    assert metric(torch.full((1, 2, 1), 0.25), weights).tolist() == [0.25]  # forward: the batch alone
    metric(torch.full((1, 2, 1), 0.75), weights)
    assert metric.compute().tolist() == [0.5]
    copy = metric.clone()
    metric.reset()
    assert metric.judged.tolist() == [0.0]
    assert copy.compute().tolist() == [0.5]
    assert pickle.loads(pickle.dumps(copy)).compute().tolist() == [0.5]


def test_half_precision_scores_and_batches_without_anything_judged():
    metric = CriterionSaturation(["a"])
    metric.update(torch.rand(1, 2, 1), torch.ones(1, 1), torch.zeros(1, 2, 1, dtype=torch.bool))
    assert metric.compute().isnan().all()
    metric.update(torch.ones(1, 2, 1, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16))
    assert metric.compute().tolist() == [1.0]


def test_no_names_no_levels():
    metric = CriterionSaturation([])
    metric.update(torch.rand(1, 2, 0), torch.rand(1, 0))
    assert metric.as_dict() == {}


def test_level_helpers():
    index = level_index([["b"], []], ["a", "b"], 2)
    assert index.tolist() == [[1, -1], [-1, -1]]
    projected, judged = level_sums(torch.ones(2, 3, 2), torch.tensor([[1.0, 0.0]] * 2), None, index, 2)
    assert projected.tolist() == pytest.approx([0.0, 1.0])
    assert judged.tolist() == pytest.approx([0.0, 1.0])


def _rank(rank, port, queue):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    metric = CriterionSaturation(NAMES)
    scores, weights, mask, keys = ragged(5, prompts=8)
    mine = slice(4 * rank, 4 * rank + 4)
    update(metric, (scores[mine], weights[mine], mask[mine], keys[mine]))
    queue.put((rank, metric.compute().tolist()))
    dist.destroy_process_group()


def test_two_processes_agree_with_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(_rank, args=(port, queue), nprocs=2)
    one = CriterionSaturation(NAMES)
    update(one, ragged(5, prompts=8))
    for _ in range(2):
        _, levels = queue.get()
        torch.testing.assert_close(torch.tensor(levels, dtype=torch.float64), one.compute(), rtol=0, atol=1e-12)
