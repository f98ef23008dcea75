"""Rubric scores: who is asked what. Token choices: known starting rates. Reward functions as TRL calls them; its own run: tests/integrations."""

import asyncio
import functools

import pytest
import torch

from lightning_focal.judges import JudgeRequest, Outcome, RuleJudge, Verdict
from lightning_focal.rewards import (
    NINE_CHOICES,
    FocalReward,
    RewardFunctions,
    RubricScores,
    StaticReward,
    TokenChoice,
    TokenChoiceScores,
)
from lightning_focal.rubrics import Criterion, Rubric
from tests.helpers import FAILED, MET, NOT_APPLICABLE, NOT_MET, TableJudge, make_prompts, make_rollouts

CHECK = {"kind": "no_commas"}
LONG = Rubric((Criterion("a", "", 3, check=CHECK, tags=("axis:x",)), Criterion("b", "", -1, check=CHECK)))
SHORT = Rubric((Criterion("c", "", check=CHECK),))
TEXTS = (("r0", "r1", "r2"), ("s0", "s1", "s2"))
TABLE = {("r0", "a"): MET, ("r0", "b"): MET, ("r1", "a"): NOT_MET, ("r1", "b"): NOT_MET, ("r2", "a"): NOT_APPLICABLE}
TABLE |= {("r2", "b"): FAILED, ("s0", "c"): NOT_MET, ("s1", "c"): MET, ("s2", "c"): Verdict(Outcome.GRADED, 0.25, "a quarter")}


def test_requests_go_prompt_by_prompt_and_verdicts_come_back_in_place():
    judge = TableJudge(TABLE)
    prompts = make_prompts(2, [LONG, SHORT])
    RubricScores(judge).validate(prompts)
    assert judge.validated == ["a", "b", "c"]
    scores = RubricScores(judge)(make_rollouts(prompts, 3, texts=TEXTS))
    assert judge.requests == [
        JudgeRequest(prompts.messages[p], text, rubric.criteria) for p, rubric in enumerate((LONG, SHORT)) for text in TEXTS[p]
    ]
    assert scores.scores.tolist() == [[[1, 0], [0, 1], [0, 0]], [[0, 0], [1, 0], [0.25, 0]]]
    assert scores.mask.tolist() == [[[True, True], [True, True], [False, False]], [[True, False]] * 3]
    assert scores.failed.nonzero().tolist() == [[0, 2, 1]]
    assert scores.weights.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert (scores.names, scores.keys) == ((("a", "b"), ("c",)), (("x", "b"), ("c",)))
    assert scores.outcomes[0][2] == ("not_applicable", "error")
    assert scores.reasons[1] == (("not seen",), ("seen",), ("a quarter",))


def test_rules_by_default():
    source = RubricScores()
    assert isinstance(source.judge, RuleJudge)
    scores = source(make_rollouts(make_prompts(1, [SHORT]), 2, texts=(("no", "yes, no"),)))
    assert scores.scores.tolist() == [[[1.0], [0.0]]]
    assert source.level_keys() == []


@pytest.mark.parametrize("judge", [TableJudge({}), None])
def test_what_cannot_be_judged_stops_early(judge):
    rubric = Rubric((Criterion("d", "Is kind.", where="train.jsonl:17: rubric[2]"),))
    with pytest.raises(ValueError, match=r"^train.jsonl:17: rubric\[2\]"):
        RubricScores(judge).validate(make_prompts(1, [rubric]))
    for call in (RubricScores().validate, lambda prompts: RubricScores()(make_rollouts(prompts))):
        with pytest.raises(ValueError, match="RubricScores needs prompts with rubrics, got 2 prompts without"):
            call(make_prompts(2))
        with pytest.raises(ValueError, match=r"RubricScores needs a rubric for every prompt, prompts \['p1'\] have none"):
            call(make_prompts(2, [SHORT, None]))


def tokens(ids, mask=None):
    ids = torch.tensor(ids)
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.tensor(mask)
    p, g, t = ids.shape
    return make_rollouts(make_prompts(p), g, tokens=t, response_ids=ids, response_mask=mask)


def test_tokens_are_met_by_range_and_missing_ones_meet_nothing():
    source = TokenChoiceScores([TokenChoice("low", 0, 0, 10, points=3.0), TokenChoice("high", 1, 200, 259)])
    scores = source(tokens([[[9, 199], [10, 200]], [[0, 258], [0, 200]]], [[[True, True]] * 2, [[True, True], [True, False]]]))
    assert scores.scores.tolist() == [[[1, 0], [0, 1]], [[1, 1], [1, 0]]]
    assert scores.weights.tolist() == [[0.75, 0.25]] * 2
    assert scores.mask.all()
    assert source.level_keys() == ["low", "high"]
    source = TokenChoiceScores([TokenChoice("first", 0, 0, 259), TokenChoice("sixth", 5, 0, 259)])
    assert source(tokens([[[1, 2]]])).scores.tolist() == [[[1.0, 0.0]]]


def test_rates_of_a_uniform_policy():
    source = TokenChoiceScores()
    source.validate(make_prompts())
    scores = source(tokens([[[i] * 6 for i in range(259)]]))  # every id at every position: the rates by counting
    rates = dict(zip(scores.names[0], [round(rate, 2) for rate in scores.scores[0].mean(0).tolist()], strict=True))
    assert rates == {choice.name: int(choice.name[1:]) / 100 for choice in NINE_CHOICES}
    assert list(rates.values()) == [0.90, 0.80, 0.65, 0.50, 0.35, 0.20, 0.10, 0.05, 0.02]
    shaped = StaticReward(source=source).shape(source(tokens([[[0] * 6, [258] * 6]])))
    assert shaped.rewards[0, 0] > shaped.rewards[0, 1]


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
