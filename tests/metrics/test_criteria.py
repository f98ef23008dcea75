from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from lightning_focal.functional import criterion_sums, focal_weights, gini, inverse_reward_projection, level_index
from lightning_focal.metrics import CriterionBalance, CriterionSaturation
from tests import oracles
from tests.functional.cases import tensors
from tests.processes import run_threads

NAMES = ("a", "b", "c")
KINDS = [CriterionSaturation, CriterionBalance]


def ragged(seed=0, prompts=6):
    rng = np.random.default_rng(seed)
    scores, weights, mask = oracles.ragged_batch(rng, prompts, most_rollouts=4, most_criteria=3)
    keys = [[str(rng.choice(NAMES)) for _ in range(int((w > 0).sum()))] for w in weights]
    return *tensors(scores, weights, mask), keys


def update(metric, case, rows=slice(None)):
    scores, weights, mask, keys = (part[rows] for part in case)
    if isinstance(metric, CriterionSaturation):
        metric.update(scores, weights, mask, keys)
    else:
        sigma = inverse_reward_projection(scores, weights, mask)
        metric.update(scores, mask, keys, weights=focal_weights(sigma, weights, mask.any(1)), saturation=sigma)
    return metric


def levels(metric):
    return list(map(float, metric.compute().values()))


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], equal_nan=True, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_saturation_pools_batches_as_the_loop(temperature):
    metric, above, below = CriterionSaturation(NAMES, temperature), dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0.0)
    for case in map(ragged, range(20)):
        update(metric, case)
        for s, w, m, row in zip(*(part.numpy() for part in case[:3]), case[3], strict=True):
            for key, projected, judged in zip(row, *oracles.projection_sums(s, w, m, temperature), strict=False):
                above[key] += projected
                below[key] += judged
    assert levels(metric) == pytest.approx([above[n] / below[n] for n in NAMES], abs=1e-9)


def test_balance_by_hand():
    metric = CriterionBalance(["a", "b"])
    weights, sigma = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.95, 0.5]])
    metric.update(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), weights=weights, saturation=sigma)
    expected = {"score": [1.0, 0.5], "all_pass": [1.0, 0.0], "contrastive": [0.0, 1.0], "weight": [0.25, 0.75]}
    expected |= {"saturation": [0.95, 0.5], "worst": 0.5, "worst_index": 1, "min_over_mean": 2 / 3, "gini": 1 / 6, "std": 0.25}
    expected |= {"bottom_quartile": 0.5, "strict_completion": 0.5, "effective_number": 1 / 0.625, "saturated_mass": 0.25}
    for name, value in expected.items():
        assert metric.compute()[name].tolist() == pytest.approx(value), name
    assert metric.worst_name() == "b"


def test_balance_pools_batches_and_agrees_with_the_functions():
    case = ragged(0, prompts=12)
    whole, parts = update(CriterionBalance(NAMES), case), CriterionBalance(NAMES)
    for rows in (slice(0, 5), slice(5, 12)):
        update(parts, case, rows)
    same(whole.compute(), parts.compute())
    shares = criterion_sums(case[0], case[2], None, level_index(case[3], NAMES, 3), 3).shares()
    same(shares, {name: whole.compute()[name] for name in shares})
    torch.testing.assert_close(whole.compute()["gini"], gini(shares["score"]))
    doubled = {name: torch.nan_to_num(value) for name, value in whole.over_processes(lambda sums: 2 * sums).items()}
    same(doubled, {name: torch.nan_to_num(value) for name, value in whole.compute().items()})


def test_one_name_no_name_and_nothing_seen():
    saturation, weights = CriterionSaturation(["a"]), torch.ones(1, 1)
    saturation.update(torch.rand(1, 2, 1), weights, torch.zeros(1, 2, 1, dtype=torch.bool))
    assert saturation.compute()["a"].isnan()
    saturation.update(torch.ones(1, 2, 1, dtype=torch.bfloat16), weights.bfloat16())
    assert levels(saturation) == [1.0]
    saturation.reset()
    saturation.update(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.5, 0.5]]), keys=[["a", "a"]])  # they share a level
    assert levels(saturation) == [0.5]
    balance = CriterionBalance(["a"])
    balance.update(torch.rand(1, 2, 1), torch.zeros(1, 2, 1, dtype=torch.bool))
    assert (balance.compute()["score"].isnan().tolist(), balance.worst_name()) == ([True], None)
    nobody, empty = CriterionSaturation([]), CriterionBalance([])
    nobody.update(torch.rand(1, 2, 0), torch.rand(1, 0))
    empty.update(torch.rand(1, 2, 0))
    assert (nobody.compute(), empty.worst_name()) == ({}, None)


@pytest.mark.parametrize("kind", KINDS)
def test_errors(kind):
    with pytest.raises(ValueError, match="`names` must be unique"):
        kind(["a", "a"])
    arguments = {"weights": torch.ones(1, 1)} if kind is CriterionSaturation else {}
    with pytest.raises(ValueError, match=r"`keys\[0\]` must be names of levels \(a, b, c\), got 'd'"):
        kind(NAMES).update(torch.rand(1, 1, 1), keys=[["d"]], **arguments)
    with pytest.raises(ValueError, match="C = 3 columns"):
        kind(NAMES).update(torch.rand(1, 1, 1), **arguments)
    with pytest.raises(ValueError, match="at most C = 1 entries, got 2"):
        kind(NAMES).update(torch.rand(1, 1, 1), keys=[["a", "b"]], **arguments)
    with pytest.raises(ValueError, match="must be given together"):
        CriterionBalance(["a"]).update(torch.rand(1, 1, 1), weights=torch.ones(1, 1))
    with pytest.raises(ValueError, match="`temperature` must be > 0"):
        CriterionSaturation(["a"], temperature=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [NAMES, ("a",)])
def test_state_copies_and_reset(kind, names):
    case = (*ragged(1)[:3], [["a"] * len(row) for row in ragged(1)[3]])
    metric, other = update(kind(names), case), kind(names)
    other.load_state_dict(metric.state_dict())
    update(other, case, slice(0, 0))
    for copy in (other, pickle.loads(pickle.dumps(metric)), metric.clone()):
        same(copy.compute(), metric.compute())
    metric.reset()
    assert not any(state.any() for state in metric.metric_state.values())
    assert any(state.any() for state in other.metric_state.values())


def test_forward_returns_the_batch_alone():
    metric = CriterionSaturation(["a"])
    assert metric(torch.full((1, 2, 1), 0.25), torch.ones(1, 1)) == {"a": 0.25}
    assert metric(torch.full((1, 2, 1), 0.75), torch.ones(1, 1)) == {"a": 0.75}
    assert levels(metric) == [0.5]


def test_two_processes_agree_with_one():
    """Each with half of the prompts, one metric a process; threads in their place."""
    got = {
        kind: [update(kind(NAMES), ragged(5, prompts=8), slice(4 * rank, 4 * rank + 4)) for rank in range(2)] for kind in KINDS
    }
    run_threads(lambda rank: [metrics[rank].compute() for metrics in got.values()])
    for kind, metrics in got.items():
        whole = update(kind(NAMES), ragged(5, prompts=8)).compute()
        for metric in metrics:
            same(metric.compute(), whole)


def test_in_a_collection():
    case, both = ragged(2), MetricCollection({"levels": CriterionSaturation(NAMES), "balance": CriterionBalance(NAMES)})
    scores, weights, mask, keys = case
    sigma = inverse_reward_projection(scores, weights, mask)
    both.update(scores=scores, weights=weights, mask=mask, keys=keys, saturation=sigma)
    alone = CriterionSaturation(NAMES)
    alone.update(scores, weights, mask, keys)
    got = both.compute()
    same({name: got[name] for name in NAMES}, alone.compute())
    assert got["worst"] == got["score"].nan_to_num(2).min()
    assert both.clone(prefix="val/").compute().keys() == {f"val/{name}" for name in got}


def test_plots_levels_now_and_over_steps():
    from matplotlib import pyplot

    metric = CriterionSaturation(("a", "b"))
    steps = [metric(torch.tensor([[[x, 1.0], [x, 0.0]]]), torch.tensor([[0.5, 0.5]])) for x in (0.25, 0.5)]
    (_, now), (_, over) = metric.plot(), metric.plot(steps)
    assert [text.get_text() for text in over.get_legend().get_texts()] == ["a", "b"]
    assert [float(y) for y in over.lines[0].get_ydata()] == [0.25, 0.5]
    assert [float(line.get_ydata()[0]) for line in now.lines[:2]] == pytest.approx(levels(metric))
    _, axes = pyplot.subplots()
    assert metric.plot(ax=axes)[1] is axes
    pyplot.close("all")
