from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.functional import Vote, majority_vote


def same_number(a, b):
    try:
        return Fraction(a) == Fraction(b)
    except (ValueError, ZeroDivisionError):
        return False


@pytest.mark.parametrize(
    ("answers", "vote"),
    [
        ([], Vote(None, 0, 0.0, 0)),
        ([None, "", "  \n"], Vote(None, 0, 0.0, 0)),
        (["3"], Vote("3", 1, 1.0, 1)),
        (["3", None, None, None], Vote("3", 1, 1.0, 1)),
        (["1", "2", "2", None], Vote("2", 2, 2 / 3, 2)),
        ([" 2", "2 ", "1"], Vote("2", 2, 2 / 3, 2)),
        (["b", "a", "a", "b"], Vote("b", 2, 0.5, 2)),
        (["c", "a", "b"], Vote("c", 1, 1 / 3, 3)),
        (["0.5", "1/2", "1/2", "7"], Vote("1/2", 2, 0.5, 3)),
    ],
)
def test_by_hand(answers, vote):
    assert majority_vote(answers) == vote


def test_classes_are_formed_before_counting():
    # as strings the 7 wins, as numbers the halves do, under the name that came first
    answers = ["1/2", "7", "0.5", "7", "2/4", " 0.50"]
    assert majority_vote(answers) == Vote("7", 2, 2 / 6, 5)
    assert majority_vote(answers, same_number) == Vote("1/2", 4, 4 / 6, 2)


def test_a_tie_between_classes_goes_to_the_class_seen_first():
    assert majority_vote(["2", "1/2", "0.5", "2.0"], same_number) == Vote("2", 2, 0.5, 2)


def test_answers_are_compared_with_first_members_alone_in_order():
    asked = []

    def near(first, answer):
        asked.append((first, answer))
        return abs(int(first) - int(answer)) <= 1

    # 2 joins 1; 3 is near 2 but not near 1, so it opens a class; 4 joins it
    assert majority_vote(["1", "2", "3", "4", "2"], near) == Vote("1", 3, 3 / 5, 2)
    assert asked == [("1", "2"), ("1", "3"), ("1", "4"), ("3", "4")]


def test_the_first_class_that_fits_is_joined():
    assert majority_vote(["1", "3", "2"], lambda a, b: abs(int(a) - int(b)) <= 1) == Vote("1", 2, 2 / 3, 2)


def test_sixty_four_answers():
    answers = [["1/2", "0.5", "2/4", "5/10"][i % 4] if i % 3 == 0 else str(i) for i in range(64)]
    assert majority_vote(answers, same_number) == Vote("1/2", 22, 22 / 64, 43)


@pytest.mark.parametrize(
    ("answers", "message"),
    [("12", "`answers` must be a sequence of answers, got one string '12'"), (["1", 2], r"`answers\[1\]` must be a string or None, got int")],
)  # fmt: skip
def test_what_is_no_answer_is_refused(answers, message):
    with pytest.raises(TypeError, match=message):
        majority_vote(answers)


ANSWERS = st.lists(st.one_of(st.none(), st.sampled_from(["", " ", "1", "2", "1.0", " 1", "4/2", "x"])), max_size=20)


@given(ANSWERS, st.booleans())
def test_equals_a_plain_loop(answers, numbers):
    equal = same_number if numbers else lambda a, b: False
    classes = []
    for answer in answers:
        if answer is None or not answer.strip():
            continue
        for members in classes:
            if members[0] == answer.strip() or equal(members[0], answer.strip()):
                members.append(answer.strip())
                break
        else:
            classes.append([answer.strip()])
    best = None
    for members in classes:
        if best is None or len(members) > len(best):
            best = members
    votes = sum(len(members) for members in classes)
    want = Vote(best[0], len(best), len(best) / votes, len(classes)) if best else Vote(None, 0, 0.0, 0)
    assert majority_vote(answers, equal if numbers else None) == want


@given(ANSWERS)
def test_what_always_holds(answers):
    vote = majority_vote(answers, same_number)
    votes = [answer for answer in answers if answer and answer.strip()]
    assert vote.count <= len(votes)
    assert vote.distinct <= len(votes)
    assert (vote.label is None) == (vote.count == 0) == (not votes)
    if vote.label is not None:
        assert vote.label in {answer.strip() for answer in votes}
        assert vote.count == sum(answer.strip() == vote.label or same_number(answer, vote.label) for answer in votes)
        assert vote.distinct <= 1 + len(votes) - vote.count
        assert 0 < vote.share <= 1


@given(ANSWERS, st.randoms(use_true_random=False))
def test_order_matters_to_ties_alone(answers, random):
    vote = majority_vote(answers, same_number)
    shuffled = list(answers)
    random.shuffle(shuffled)
    other = majority_vote(shuffled, same_number)
    assert (other.count, other.share, other.distinct) == (vote.count, vote.share, vote.distinct)
    twice = majority_vote([*answers, *answers], same_number)
    assert (twice.label, twice.count, twice.share, twice.distinct) == (vote.label, 2 * vote.count, vote.share, vote.distinct)
