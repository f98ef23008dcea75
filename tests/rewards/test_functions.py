"""Reward functions as TRL calls them, as a source of scores; TRL's own run in tests/integrations."""

import asyncio
import functools

import pytest
import torch

from lightning_focal.rewards import FocalReward, RewardFunctions
from tests.helpers import make_prompts, make_rollouts

CALLS = []


def right(completions, solution, **columns):
    return [None if s is None else float(s in c[0]["content"]) for c, s in zip(completions, solution, strict=True)]


async def brief(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, answer, **columns):
    await asyncio.sleep(0)
    CALLS.append({"prompts": prompts, "ids": completion_ids, "step": trainer_state.global_step, "answer": answer, **columns})
    CALLS[-1]["loop"] = asyncio.get_running_loop()
    log_metric("tokens", sum(map(len, completion_ids)))
    log_extra("nothing", completions)
    return [-float(len(ids)) for ids in completion_ids]


def batch(**kwargs):
    prompts = make_prompts(2, answers=("4", None), extra=({"solution": "0.1", "level": 3}, {"level": 5}))
    mask = torch.tensor([[[True, True, False], [True, False, False]], [[True] * 3, [True, True, False]]])
    return make_rollouts(prompts, 2, response_ids=torch.arange(12).reshape(2, 2, 3), response_mask=mask, version=7, **kwargs)


def test_functions_get_what_trl_gives_them():
    source = RewardFunctions([right, f"{__name__}.brief"], weights=[3.0, -1.0], bounds={"brief": (-4.0, 0.0)})
    assert source.level_keys() == ["right", "brief"]
    rollouts = batch()
    source.validate(rollouts.prompts)
    CALLS.clear()
    scores = source(rollouts)
    call = CALLS[0]
    assert call["prompts"] == [[{"role": "user", "content": f"question {p}"}] for p in (0, 0, 1, 1)]
    assert (call["ids"], call["step"]) == ([[0, 1], [3], [6, 7, 8], [9, 10]], 7)
    assert (call["answer"], call["level"], call["solution"]) == (["4", "4", None, None], [3, 3, 5, 5], ["0.1", "0.1", None, None])
    assert scores.mask[..., 0].tolist() == [[True, True], [False, False]]
    assert scores.scores.tolist() == [[[0, 0.5], [1, 0.25]], [[0, 0.75], [0, 0.5]]]  # a negative weight turns the score round
    torch.testing.assert_close(scores.weights, torch.tensor([[3 / 7, 4 / 7]] * 2))
    assert scores.measures["tokens"].tolist() == [8.0]
    source(rollouts)
    assert CALLS[1]["loop"] is CALLS[0]["loop"]


def test_async_functions_run_where_a_loop_runs_already():
    async def notebook():
        return RewardFunctions([brief], bounds={"brief": (-4.0, 0.0)})(batch())

    assert asyncio.run(notebook()).scores.tolist() == [[[0.5], [0.75]], [[0.25], [0.5]]]
    assert RewardFunctions([right])(make_rollouts(make_prompts(0), 2)).scores.shape == (0, 2, 1)  # a batch without prompts
    source = RewardFunctions([right, brief], bounds={"brief": (-4.0, 0.0)})
    assert torch.allclose(FocalReward(gamma=1.0, source=source).shape(source(batch())).weights.sum(1), torch.ones(2))


def test_what_the_data_lack_stops_early():
    with pytest.raises(ValueError, match=r"'right' needs the columns \['solution'\], the data set has \['answer'\]"):
        RewardFunctions([right]).validate(make_prompts(2))
    with pytest.raises(ValueError, match=r"'right' must give one reward a completion \(4\), got 1"):
        RewardFunctions([functools.wraps(right)(lambda **columns: [1.0])])(batch())
    with pytest.raises(ValueError, match=r"'brief' gave -2, outside \(0, 1\)"):
        RewardFunctions([brief])(batch())
