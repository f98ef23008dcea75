"""Who judges which criterion."""

from __future__ import annotations

import pickle

import pytest

from lightning_focal.judges import Outcome, RoutedJudge, RuleJudge, Verdict
from lightning_focal.rubrics import Criterion
from tests.judges.judges import WORDS, Saying, request

SHORT = Criterion("short", "Is short.", check={"kind": "max_words", "words": 3}, where="a.jsonl:1")
TAGGED = Criterion("tagged", "Is right.", tags=("verifier:rule", "function:x"), where="a.jsonl:2")
MATHS = Criterion("maths", "Is right.", tags=("verifier:math",), where="a.jsonl:3")
KIND = Criterion("kind", "Is kind.", tags=("verifier:llm",), where="a.jsonl:4")
RUDE = Criterion("rude", "Is rude.", -1, where="a.jsonl:5")


def test_checks_go_to_the_rules_and_the_rest_to_the_other():
    other = Saying(kind="yes", rude="no")
    judge = RoutedJudge(other=other)
    rows = judge.judge([request("one two", KIND, SHORT, RUDE), request("one two three four", SHORT), request("a", RUDE)])
    assert [[verdict.outcome.value for verdict in row] for row in rows] == [["met", "met", "not_met"], ["not_met"], ["not_met"]]
    assert rows[0][0] is WORDS["yes"]
    # one call for the batch, about its own criteria alone
    assert [[asked.criteria for asked in call] for call in other.asked] == [[(KIND, RUDE), (RUDE,)]]
    assert [asked.response for asked in other.asked[0]] == ["one two", "a"]


def test_tags_go_to_the_rules_too():
    rules, other = Saying(tagged="yes", maths="no", short="yes"), Saying(kind="n/a")
    row = RoutedJudge(rules, other).judge([request("x", KIND, TAGGED, MATHS, SHORT)])[0]
    assert [verdict.outcome.value for verdict in row] == ["not_applicable", "met", "not_met", "met"]
    assert rules.asked[0][0].criteria == (TAGGED, MATHS, SHORT)


def test_nobody_is_asked_about_nothing():
    other = Saying()
    assert RoutedJudge(other=other).judge([]) == []
    RoutedJudge(other=other).judge([request("a", SHORT)])
    assert other.asked == [[], []]  # so that its measures are those of this batch


def test_preparing_and_measures_reach_both():
    rules, other = Saying(short="yes"), Saying(kind="yes")
    judge = RoutedJudge(rules, other)
    judge.prepare()
    assert (rules.prepared, other.prepared) == (1, 1)
    judge.judge([request("a", KIND, SHORT), request("b", KIND)])
    assert judge.measures() == {"asked": 2.0}
    RoutedJudge().prepare()
    assert RoutedJudge().measures() == {}


@pytest.mark.parametrize("response", ["", " \n", "\u200b"])
def test_an_empty_response_scores_zero_and_is_put_to_nobody(response):
    other = Saying(kind="yes", rude="no")
    row = RoutedJudge(other=other).judge([request(response, KIND, RUDE, SHORT)])[0]
    assert row == (
        Verdict(Outcome.NOT_MET, reason="empty response"),
        Verdict(Outcome.MET, reason="empty response"),
        Verdict(Outcome.NOT_MET, reason="empty response"),
    )
    assert other.asked == [[]]


def test_errors_stay_errors():
    row = RoutedJudge(other=Saying(kind="error", rude="error")).judge([request("a", KIND, RUDE)])[0]
    assert {verdict.outcome for verdict in row} == {Outcome.ERROR}


def test_validate_says_what_nobody_can_judge():
    alone, both = RoutedJudge(), RoutedJudge(other=Saying())
    alone.validate(SHORT)
    both.validate(KIND)
    with pytest.raises(ValueError, match=r"^a\.jsonl:5: criterion 'rude' has no `check`, and nobody else judges: give `other` a"):
        alone.validate(RUDE)
    with pytest.raises(ValueError, match=r"^a\.jsonl:5: criterion 'rude' has no `check`"):
        alone.judge([request("a", SHORT, RUDE)])
    for criterion in (TAGGED, MATHS):  # a rule is asked for, and none is given
        with pytest.raises(
            ValueError, match=rf"^a\.jsonl:\d: criterion '{criterion.name}' has no `check`: a rule judge needs one"
        ):
            both.validate(criterion)
    with pytest.raises(ValueError, match="`kind` must be a known check, got 'max_word'"):
        both.validate(Criterion("x", "", check="max_word"))


def test_the_others_refusal_counts():
    other = Saying()
    other.refuses = ("kind",)
    with pytest.raises(ValueError, match=r"^a\.jsonl:4: not kind"):
        RoutedJudge(other=other).validate(KIND)


def test_it_pickles():
    judge = pickle.loads(pickle.dumps(RoutedJudge(RuleJudge(0.5), Saying(kind="yes"))))
    assert judge.rules.regex_timeout == 0.5
    assert judge.judge([request("a", KIND)])[0][0].outcome is Outcome.MET
