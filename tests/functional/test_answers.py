"""Boxed answers and the vote over them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import strategies as st

from lightning_focal.functional import Vote, extract_boxed, majority_vote
from tests.functional.cases import given
from tests.growth import is_linear


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        (r"so $\boxed{5}$.", "5"),
        (r"\boxed{1} and \boxed{2}, done", "2"),
        (r"\boxed{\text{a} + {b}} }", r"\text{a} + {b}"),
        (r"\boxed{}", ""),
        ("\\boxed{ 1\n+2}", " 1\n+2"),
        ("\\boxed\n {5}", "5"),
        # printed braces are no braces
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left. x \right\}}", r"\left. x \right\}"),
        (r"\boxed{5\}", None),
        (r"\boxed{a \\}", r"a \\"),
        # nested: the last to open
        (r"\boxed{a = \boxed{b}}", "b"),
        # cut off: None, not the one before
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{\boxed{1}", "1"),
        # no boxes with braces
        (r"\fbox{5}", None),
        (r"\boxed{5} is \boxed 6", "5"),
        (r"\boxedtext{5}", None),
        ("\\boxed{5}\\", "5"),
        ("\\boxed{\\", None),
    ],
)  # fmt: skip
def test_boxed_by_hand(text, content):
    assert extract_boxed(text) == content


BALANCED = st.recursive(
    st.text(alphabet="x1 +,$\n", max_size=4) | st.sampled_from([r"\{", r"\}", r"\\", r"\frac"]),
    lambda inner: st.lists(inner, max_size=4).map("".join) | inner.map("{{{}}}".format),
    max_leaves=8,
)


@given(st.text(alphabet="\\boxed{} 1$\n\u00e9\u65e5", max_size=30), BALANCED, st.text(alphabet="}x1 $\\.", max_size=20))
def test_whatever_stands_around_a_box(before, content, after):
    assert extract_boxed(f"{before}\\boxed{{{content}}}{after}") == content


@given(st.text(alphabet="\\boxed{} a", max_size=60))
def test_any_text_gives_something_in_it_or_none(text):
    found = extract_boxed(text)
    assert found is None or f"{{{found}}}" in text


@pytest.mark.parametrize(
    "unit", ["\\boxed{", "\\boxed", "\\boxed ", "{", "}", "\\boxed{}", "\\", "\\boxed{\\", " ", "\\boxed" + " " * 500]
)
def test_takes_linear_time(unit):
    for prefix in ("", "\\boxed{", "\\boxed"):
        assert is_linear(lambda size, prefix=prefix: extract_boxed(prefix + unit * (size // len(unit))), 300_000)


def same_number(a, b):
    try:
        return Fraction(a) == Fraction(b)
    except (ValueError, ZeroDivisionError):
        return False


def test_answers_are_compared_with_first_members_alone_in_order():
    asked = []

    def near(first, answer):
        asked.append((first, answer))
        return abs(int(first) - int(answer)) <= 1

    # 2 joins 1; 3 is near 2 but not near 1, so it opens a class; 4 joins it
    assert majority_vote(["1", "2", "3", "4", "2"], near) == Vote("1", 3, 3 / 5, 2)
    assert asked == [("1", "2"), ("1", "3"), ("1", "4"), ("3", "4")]


ANSWERS = st.lists(st.one_of(st.none(), st.sampled_from(["", " ", "1", "2", "1.0", " 1", "4/2", "x"])), max_size=20)


@given(ANSWERS, st.booleans())
def test_votes_equal_a_plain_loop(answers, numbers):
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


@given(ANSWERS, st.randoms(use_true_random=False))
def test_order_matters_to_ties_alone(answers, random):
    vote = majority_vote(answers, same_number)
    shuffled = list(answers)
    random.shuffle(shuffled)
    other = majority_vote(shuffled, same_number)
    assert (other.count, other.share, other.distinct) == (vote.count, vote.share, vote.distinct)
