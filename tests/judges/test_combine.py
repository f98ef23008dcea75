"""Who judges which criterion, and how several judges agree, counted by hand."""

import itertools
import pickle

import pytest

from lightning_focal.judges import MajorityJudge, Outcome, RoutedJudge, RuleJudge
from lightning_focal.rubrics import Criterion
from tests.judges.judges import WORDS, Saying, request

SHORT = Criterion("short", "Is short.", check={"kind": "max_words", "words": 3}, where="a.jsonl:1")
TAGGED = Criterion("tagged", "Is right.", tags=("verifier:rule", "function:x"), where="a.jsonl:2")
MATHS = Criterion("maths", "Is right.", tags=("verifier:math",), where="a.jsonl:3")
KIND = Criterion("kind", "Is kind.", tags=("verifier:llm",), where="a.jsonl:4")
RUDE = Criterion("rude", "Is rude.", -1, where="a.jsonl:5")
TONE = Criterion("tone", "Kind?", low=1, high=5, where="a.jsonl:1")


def outcomes(rows):
    return [[verdict.outcome.value for verdict in row] for row in rows]


def test_checks_go_to_the_rules_and_the_rest_to_the_other():
    other = Saying(kind="yes", rude="error")
    three = [request("one two", KIND, SHORT, RUDE), request("one two three four", SHORT), request("a", RUDE)]
    rows = RoutedJudge(other=other).judge(three)
    assert outcomes(rows) == [["met", "met", "error"], ["not_met"], ["error"]]
    assert rows[0][0] is WORDS["yes"]
    put = [[(asked.response, asked.criteria) for asked in call] for call in other.asked]
    assert put == [[("one two", (KIND, RUDE)), ("a", (RUDE,))]]  # one call for the batch, about its own criteria alone

    assert RoutedJudge(other=other).judge([]) == []
    RoutedJudge(other=other).judge([request("a", SHORT)])
    assert other.asked[1:] == [[], []]  # so that its measures are those of this batch


def test_tags_go_to_the_rules_too_and_preparing_and_measures_reach_both():
    rules, other = Saying(tagged="yes", maths="no", short="yes"), Saying(kind="n/a")
    judge = RoutedJudge(rules, other)
    judge.prepare()
    assert (rules.prepared, other.prepared) == (1, 1)
    rows = judge.judge([request("x", KIND, TAGGED, MATHS, SHORT), request("b", KIND)])
    assert outcomes(rows) == [["not_applicable", "met", "not_met", "met"], ["not_applicable"]]
    assert rules.asked[0][0].criteria == (TAGGED, MATHS, SHORT)
    assert judge.measures() == {"asked": 2.0}
    RoutedJudge().prepare()
    assert RoutedJudge().measures() == {}
    copy = pickle.loads(pickle.dumps(RoutedJudge(RuleJudge(0.5), Saying(kind="yes"))))
    assert copy.rules.regex_timeout == 0.5
    assert outcomes(copy.judge([request("a", KIND)])) == [["met"]]


def test_validate_says_what_nobody_can_judge():
    other = Saying()
    alone, both = RoutedJudge(), RoutedJudge(other=other)
    alone.validate(SHORT)
    both.validate(KIND)
    with pytest.raises(ValueError, match=r"^a\.jsonl:5: criterion 'rude' has no `check`, and nobody else judges: give `other` a"):
        alone.validate(RUDE)
    with pytest.raises(ValueError, match=r"^a\.jsonl:5: criterion 'rude' has no `check`"):
        alone.judge([request("a", SHORT, RUDE)])
    for criterion in (TAGGED, MATHS):  # a rule is asked for, and none is given
        with pytest.raises(ValueError, match=rf"^a\.jsonl:\d: criterion '{criterion.name}' has no `check`: a rule judge needs"):
            both.validate(criterion)
    other.refuses = ("kind",)
    with pytest.raises(ValueError, match=r"^a\.jsonl:4: not kind"):
        both.validate(KIND)


def vote(*says, criterion=TONE, **kwargs):
    judge = MajorityJudge([Saying(**{criterion.name: said}) for said in says], **kwargs)
    ((verdict,),) = judge.judge([request("a", criterion)])
    return verdict


@pytest.mark.parametrize(("says", "outcome", "reason"), [
    (("yes",), "met", "met 1 of 1: seen"), (("yes", "yes", "no"), "met", "met 2, not met 1 of 3: seen"),
    (("no", "yes", "no"), "not_met", "not met 2, met 1 of 3: not seen"), (("error", "yes", "error"), "met", "met 1 of 3: seen"),
    (("error", "yes", "no"), "error", "a tie: met 1, not met 1 of 3"),
    (("error", "error"), "error", "0 of 2 judges judged, 1 asked: time-out"),
    (("n/a", "n/a", "yes"), "not_applicable", "not applicable 2, met 1 of 3: not asked for"),
    (("n/a", "yes", "no"), "error", "a tie: not applicable 1, met 1, not met 1 of 3"),
    ((2.0, "n/a"), "error", "a tie: graded 1, not applicable 1 of 2"),
    ((2.0, "n/a", "n/a"), "not_applicable", "not applicable 2, graded 1 of 3: not asked for"),
])  # fmt: skip
def test_votes(says, outcome, reason):
    verdict = vote(*says)
    assert (verdict.outcome.value, verdict.reason) == (outcome, reason)


@pytest.mark.parametrize(("says", "grade"), [
    ((2.0, 5.0, 3.0), 3.0), ((2.0, 3.0), 2.5), ((2.0, 4.0, "error"), 3.0), ((2.0, "yes", 3.0), 3.0),  # met is the highest grade
    ((2.0, "no", "no"), 1.0), ((2.0, 3.0, "n/a"), 2.5),
])  # fmt: skip
def test_grades_give_their_median(says, grade):
    for order in itertools.permutations(says):
        assert (vote(*order).outcome, vote(*order).value) == (Outcome.GRADED, grade)


def test_least_votes():
    assert vote("yes", "error", "error", least_votes=2).reason == "1 of 3 judges judged, 2 asked: time-out"
    assert vote("yes", "yes", "error", least_votes=2).outcome is Outcome.MET
    verdict = vote("yes", "no", criterion=RUDE)  # a failed majority of a fault is masked, and no praise
    assert (verdict.outcome, verdict.met(RUDE)) == (Outcome.ERROR, None)
    with pytest.raises(ValueError, match="`judges` must hold at least one judge, got none"):
        MajorityJudge([])
    for votes in (0, 3):
        with pytest.raises(ValueError, match=rf"`least_votes` must be from 1 to the number of judges \(2\), got {votes}"):
            MajorityJudge([Saying(), Saying()], least_votes=votes)


def test_every_criterion_of_every_request_in_order_and_every_judge():
    judges = [Saying(tone="yes", kind="no"), Saying(tone="yes", kind="no"), Saying(tone="no", kind="yes")]
    majority = MajorityJudge(judges)
    majority.prepare()
    assert outcomes(majority.judge([request("a", TONE, KIND), request("b", KIND)])) == [["met", "not_met"], ["not_met"]]
    assert [judge.prepared for judge in judges] == [1, 1, 1]
    assert majority.measures() == {"asked_0": 2.0, "asked_1": 2.0, "asked_2": 2.0}
    majority.validate(TONE)
    judges[1].refuses = ("tone",)
    with pytest.raises(ValueError, match=r"^a\.jsonl:1: not tone"):
        majority.validate(TONE)
