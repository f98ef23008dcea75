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


def stops(rates, **kwargs):
    """The number of the batch that stops the run, None if none does."""
    watch = JudgeWatch(**kwargs)
    return next((number for number, rate in enumerate(rates, 1) if watch.add(rate)), None)


@pytest.mark.parametrize(
    ("rates", "batch"),
    [
        ([0.0] * 50, None),
        ([0.5] * 50, None),
        ([0.51] * 50, 5),
        ([1.0] * 3, 1),
        ([0.9, 1.0, 0.0, 0.0, 0.0, 0.0], None),
        ([0.0, 1.0, 1.0, 0.0, 0.0, 0.0], None),
        ([0.0] * 20 + [1.0] * 20, 31),
        ([0.0] * 20 + [1.0] * 10 + [0.0] * 10 + [1.0] * 5, None),
        ([NAN] * 30, None),
        ([0.0] * 20 + [NAN, 1.0] * 10, None),
        ([0.8] * 4 + [0.4] + [0.8], 6),
    ],
)
def test_over_the_last_twenty(rates, batch):
    assert stops(rates) == batch


def test_other_limits():
    assert stops([0.3] * 10, max_failure_rate=0.2) == 5
    assert stops([1.0] * 10, max_failure_rate=1.0) is None
    assert stops([0.0, 1.0, 1.0], window=2) == 3


class HalfJudge(Judge):
    """Fails on a share of the responses: the first so many of each batch."""

    def __init__(self, share):
        self.share = share

    def judge(self, requests):
        failing = round(self.share * len(requests))
        return [
            tuple(
                Verdict(Outcome.ERROR, None, "no answer within 9 s")
                if i < failing
                else Verdict(Outcome.MET if i % 2 else Outcome.NOT_MET)
                for _ in request.criteria
            )
            for i, request in enumerate(requests)
        ]


def test_a_run_stops_and_says_why(run_tiny):
    with pytest.raises(
        RuntimeError,
        match=r"the judge failed on 100% of the judgements of the last 1 batches, `max_failure_rate` is 50%.*\(\d+ times\)",
    ):
        run_tiny(FocalReward(judge=FailingJudge()), JudgeWatch())


def test_a_run_goes_on_below(run_tiny):
    run = run_tiny(FocalReward(judge=HalfJudge(0.5)), JudgeWatch(), trainer_max_epochs=3)
    rates = column(run.folder, "train/judge/failure_rate")
    assert len(rates) > 5
    assert rates == [0.5] * len(rates)


def test_the_window_goes_on_in_a_resumed_run():
    first = JudgeWatch()
    for rate in [0.0] * 10 + [1.0] * 10:
        assert not first.add(rate)
    resumed = JudgeWatch()
    resumed.load_state_dict(first.state_dict())
    assert resumed.rates == first.rates
    assert resumed.add(1.0)
    shorter = JudgeWatch(window=4)
    shorter.load_state_dict(first.state_dict())
    assert shorter.rates == [1.0] * 4


def test_the_logged_rate_is_that_of_all_processes():
    watch, trainer = JudgeWatch(), FakeTrainer()
    trainer.callback_metrics = {"train/judge/failure_rate": torch.tensor(1.0)}
    with pytest.raises(RuntimeError, match="no failure on this process"):
        watch.on_train_batch_end(trainer, None, None, None, 0)
    trainer.callback_metrics = {}
    watch.on_train_batch_end(trainer, None, None, None, 1)


FAILED = torch.tensor([[[True, False], [False, True]]])


@pytest.mark.parametrize(
    "words",
    [
        {"outcomes": ((("error", "met"), ("not_met", "error")),)},
        {},
        {"reasons": ((("", "seen"), ("seen", "")),)},
        {"outcomes": ((("error", "met"), ("not_met", "error")),), "reasons": ((("", "seen"), ("seen", "")),)},
    ],
    ids=["outcomes", "neither", "reasons", "both"],
)
def test_a_source_need_not_give_reasons(words):
    watch, trainer = JudgeWatch(), FakeTrainer()
    scores = make_scores([[[None, 1.0], [0.0, None]]], failed=FAILED, **words)
    watch.on_answers(trainer, None, make_answers(scores))
    trainer.callback_metrics = {"train/judge/failure_rate": torch.tensor(1.0)}
    with pytest.raises(RuntimeError, match=r"In the last batch: no reason given \(2 times\)"):
        watch.on_train_batch_end(trainer, None, None, None, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_failure_rate": 1.1}, r"`max_failure_rate` must be in \[0, 1\], got 1.1"),
        ({"max_failure_rate": NAN}, "`max_failure_rate`"),
        ({"window": 0}, "`window` must be >= 1 batch, got 0"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        JudgeWatch(**arguments)
