"""When a judge that fails stops a run, and what is said."""

import math

import pytest
import torch

from lightning_focal.callbacks.judge_watch import JudgeWatch
from lightning_focal.judges import Judge, Outcome, Verdict
from lightning_focal.rewards import FocalReward
from tests.helpers import FakeTrainer, make_answers, make_scores
from tests.modules.helpers import FailingJudge, column

NAN = math.nan


@pytest.mark.parametrize(("rates", "arguments", "batch"), [
    ([0.0] * 50, {}, None),
    ([0.5] * 50, {}, None),
    ([0.51] * 50, {}, 5),
    ([1.0] * 3, {}, 1),
    ([0.9, 1.0, 0.0, 0.0, 0.0, 0.0], {}, None),
    ([0.0, 1.0, 1.0, 0.0, 0.0, 0.0], {}, None),
    ([0.0] * 20 + [1.0] * 20, {}, 31),
    ([0.0] * 20 + [1.0] * 10 + [0.0] * 10 + [1.0] * 5, {}, None),
    ([NAN] * 30, {}, None),
    ([0.0] * 20 + [NAN, 1.0] * 10, {}, None),
    ([0.8] * 4 + [0.4] + [0.8], {}, 6),
    ([0.3] * 10, {"max_failure_rate": 0.2}, 5),
    ([1.0] * 10, {"max_failure_rate": 1.0}, None),
    ([0.0, 1.0, 1.0], {"window": 2}, 3),
])  # fmt: skip
def test_the_batch_that_stops_a_run(rates, arguments, batch):
    watch = JudgeWatch(**arguments)
    assert next((number for number, rate in enumerate(rates, 1) if watch.add(rate)), None) == batch


class HalfJudge(Judge):
    """Fails on the first half of the responses of each batch."""

    def judge(self, requests):
        failed, judged = Verdict(Outcome.ERROR, None, "no answer within 9 s"), [Verdict(Outcome.NOT_MET), Verdict(Outcome.MET)]
        verdicts = [failed if 2 * i < len(requests) else judged[i % 2] for i in range(len(requests))]
        return [(verdict,) * len(request.criteria) for verdict, request in zip(verdicts, requests, strict=True)]


def test_a_run_stops_and_says_why(run_tiny):
    words = r"the judge failed on 100% of the judgements of the last 1 batches, `max_failure_rate` is 50%.*\(\d+ times\)"
    with pytest.raises(RuntimeError, match=words):
        run_tiny(FocalReward(judge=FailingJudge()), JudgeWatch())


def test_a_run_goes_on_below(run_tiny):
    run = run_tiny(FocalReward(judge=HalfJudge()), JudgeWatch(), data_batch_size=1)
    assert column(run.folder, "train/judge/failure_rate") == [0.5] * 8


def test_the_window_goes_on_in_a_resumed_run():
    first, resumed, shorter = JudgeWatch(), JudgeWatch(), JudgeWatch(window=4)
    for rate in [0.0] * 10 + [1.0] * 10:
        assert not first.add(rate)
    resumed.load_state_dict(first.state_dict())
    assert resumed.rates == first.rates
    assert resumed.add(1.0)
    shorter.load_state_dict(first.state_dict())
    assert shorter.rates == [1.0] * 4


OUTCOMES, REASONS = ((("error", "met"), ("not_met", "error")),), ((("", "seen"), ("seen", "")),)


@pytest.mark.parametrize(
    "words", [{"outcomes": OUTCOMES}, {}, {"reasons": REASONS}, {"outcomes": OUTCOMES, "reasons": REASONS}, None]
)
def test_the_rate_is_that_of_all_processes_and_a_source_need_not_give_reasons(words):
    watch, trainer, said = JudgeWatch(), FakeTrainer(), "no failure on this process"
    watch.on_train_batch_end(trainer, None, None, None, 0)  # no rate was logged
    if words is not None:
        failed, said = torch.tensor([[[True, False], [False, True]]]), r"In the last batch: no reason given \(2 times\)"
        watch.on_rollouts(trainer, None, make_answers(make_scores([[[None, 1.0], [0.0, None]]], failed=failed, **words)))
    trainer.callback_metrics = {"train/judge/failure_rate": torch.tensor(1.0)}
    with pytest.raises(RuntimeError, match=said):
        watch.on_train_batch_end(trainer, None, None, None, 1)
