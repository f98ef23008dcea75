"""How several judges agree, counted by hand."""

from __future__ import annotations

import itertools

import pytest

from lightning_focal.judges import MajorityJudge, Outcome
from lightning_focal.rubrics import Criterion
from tests.judges.judges import Saying, request

TONE = Criterion("tone", "Kind?", low=1, high=5, where="a.jsonl:1")


def vote(*says, criterion=TONE, **kwargs):
    judge = MajorityJudge([Saying(**{criterion.name: said}) for said in says], **kwargs)
    ((verdict,),) = judge.judge([request("a", criterion)])
    return verdict


@pytest.mark.parametrize(
    ("says", "outcome", "reason"),
    [
        (("yes",), "met", "met 1 of 1: seen"),
        (("yes", "yes", "no"), "met", "met 2, not met 1 of 3: seen"),
        (("no", "yes", "no"), "not_met", "not met 2, met 1 of 3: not seen"),
        (("error", "yes", "error"), "met", "met 1 of 3: seen"),
        (("error", "yes", "no"), "error", "a tie: met 1, not met 1 of 3"),
        (("yes", "no"), "error", "a tie: met 1, not met 1 of 2"),
        (("error", "error"), "error", "0 of 2 judges judged, 1 asked: time-out"),
        (("n/a", "n/a", "yes"), "not_applicable", "not applicable 2, met 1 of 3: not asked for"),
        (("n/a", "yes", "yes"), "met", "met 2, not applicable 1 of 3: seen"),
        (("n/a", "yes", "no"), "error", "a tie: not applicable 1, met 1, not met 1 of 3"),
    ],
)
def test_votes(says, outcome, reason):
    verdict = vote(*says)
    assert (verdict.outcome.value, verdict.reason) == (outcome, reason)


@pytest.mark.parametrize("says", list(itertools.permutations(("yes", "no", "no", "error"))))
def test_the_order_of_the_judges_does_not_matter(says):
    assert vote(*says).outcome is Outcome.NOT_MET


@pytest.mark.parametrize(
    ("says", "grade"),
    [
        ((2.0,), 2.0),
        ((2.0, 5.0, 3.0), 3.0),
        ((2.0, 3.0), 2.5),
        ((2.0, 4.0, "error"), 3.0),
        ((2.0, "yes", 3.0), 3.0),  # met is the highest grade
        ((2.0, "no", "no"), 1.0),
        ((2.0, 3.0, "n/a"), 2.5),
    ],
)
def test_grades_give_their_median(says, grade):
    verdict = vote(*says)
    assert (verdict.outcome, verdict.value) == (Outcome.GRADED, grade)


def test_grades_and_not_applicable_tie():
    assert vote(2.0, "n/a").outcome is Outcome.ERROR
    assert vote(2.0, "n/a", "n/a").outcome is Outcome.NOT_APPLICABLE


def test_least_votes():
    assert vote("yes", "error", "error", least_votes=2).reason == "1 of 3 judges judged, 2 asked: time-out"
    assert vote("yes", "yes", "error", least_votes=2).outcome is Outcome.MET


def test_a_failed_majority_of_a_fault_is_masked_and_no_praise():
    fault = Criterion("rude", "Is rude.", -1)
    verdict = vote("yes", "no", criterion=fault)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.met(fault) is None


def test_every_criterion_of_every_request_in_order():
    other = Criterion("other", "x")
    judge = MajorityJudge([Saying(tone="yes", other="no"), Saying(tone="yes", other="no"), Saying(tone="no", other="yes")])
    rows = judge.judge([request("a", TONE, other), request("b", other)])
    assert [[verdict.outcome.value for verdict in row] for row in rows] == [["met", "not_met"], ["not_met"]]
    assert judge.judge([]) == []


def test_validate_asks_every_judge():
    first, second = Saying(), Saying()
    MajorityJudge([first, second]).validate(TONE)
    second.refuses = ("tone",)
    with pytest.raises(ValueError, match=r"^a\.jsonl:1: not tone"):
        MajorityJudge([first, second]).validate(TONE)


def test_preparing_and_measures_reach_all():
    judges = [Saying(tone="yes"), Saying(tone="no")]
    majority = MajorityJudge(judges)
    majority.prepare()
    majority.judge([request("a", TONE)])
    assert [judge.prepared for judge in judges] == [1, 1]
    assert majority.measures() == {"asked_0": 1.0, "asked_1": 1.0}


def test_arguments():
    with pytest.raises(ValueError, match="`judges` must hold at least one judge, got none"):
        MajorityJudge([])
    for votes in (0, 3):
        with pytest.raises(ValueError, match=rf"`least_votes` must be from 1 to the number of judges \(2\), got {votes}"):
            MajorityJudge([Saying(), Saying()], least_votes=votes)
