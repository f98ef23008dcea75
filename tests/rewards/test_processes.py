"""Two processes with half of the prompts each do what one process does with all of them."""

import numpy as np
import pytest
import torch

from lightning_focal import rewards as rw
from lightning_focal.rewards.strategy import draw_seeds
from lightning_focal.types import CriterionScores
from tests import oracles
from tests.processes import run_ranks
from tests.rewards.test_empty_batch import RUBRICS

pytestmark = pytest.mark.slow  # two fresh processes import everything
KEYS = list("uvwxyz")
PROMPTS, BATCHES = 8, 3


def batches(half_invalid):
    """Whole batches; with ``half_invalid`` nothing of the second batch's latter half could be judged."""
    rng = np.random.default_rng(4)
    for number in range(BATCHES):
        scores, weights, mask = oracles.ragged_batch(rng, PROMPTS)
        names = tuple(tuple(map(str, rng.choice(KEYS, int((row > 0).sum()), replace=False))) for row in weights)
        if half_invalid and number == 1:
            mask[PROMPTS // 2 :] = False
        again = torch.from_numpy(np.where(rng.random(scores.shape) < 0.4, np.round(rng.random(scores.shape)), np.nan))
        seeds = draw_seeds(number, [f"p{i}" for i in range(PROMPTS)])
        tensors = (torch.from_numpy(x) for x in (scores, mask, weights))
        yield CriterionScores(*tensors, names, repeated=again, seeds=seeds)


def part(scores, rank, world_size):
    rows = slice(rank * PROMPTS // world_size, (rank + 1) * PROMPTS // world_size)
    fields = ("scores", "mask", "weights", "names", "repeated", "seeds")
    return CriterionScores(**{name: getattr(scores, name)[rows] for name in fields})


def train(rank=0, world_size=1):
    """Run every strategy over every batch; plain data by case."""
    seen = {}
    for half_invalid in (False, True):
        for name, make in RUBRICS.items():
            strategy = make()
            strategy.learn_keys(KEYS)
            steps = []
            for mine in (part(scores, rank, world_size) for scores in batches(half_invalid)):
                strategy.observe(mine)
                shaped = strategy.shape(mine)
                steps.append({f: getattr(shaped, f).double() for f in ("weights", "saturation", "rewards", "advantages")})
            seen[name, half_invalid] = (steps, strategy.levels)
    return seen


def _rank(rank, folder):
    seen = train(rank, 2)
    try:  # nobody announced any key
        rw.FocalReward().observe(part(next(batches(False)), rank, 2))
        seen["error"] = "none"
    except RuntimeError as error:
        seen["error"] = str(error)
    torch.save(seen, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(_rank, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return train()


@pytest.mark.parametrize("name", RUBRICS)
def test_two_processes_equal_one_and_each_other_to_the_last_bit(ranks, alone, name):
    for half_invalid in (False, True):
        steps, levels = alone[name, half_invalid]
        first, second = (seen[name, half_invalid] for seen in ranks)
        torch.testing.assert_close(first[1], levels, rtol=0, atol=1e-6, equal_nan=True)
        assert torch.equal(first[1].nan_to_num(-1), second[1].nan_to_num(-1))
        for number, step in enumerate(steps):
            for field, expected in step.items():
                got = torch.cat([first[0][number][field], second[0][number][field]])
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-6, msg=f"{field} of batch {number}, {half_invalid}")


def test_keys_that_were_not_announced_raise(ranks):
    for seen in ranks:
        assert "were not announced before training" in seen["error"]
        assert "`level_keys()`" in seen["error"]
