"""When two answers are the same: who is asked, how often, and what takes too long. What people write: test_written_answers.py."""

import copy
import itertools
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.functional import Vote, majority_vote
from lightning_focal.judges import Comparison, Equivalence, equivalence
from lightning_focal.judges.math_process import Reply, compare_texts
from lightning_focal.judges.written_answers import read_answer, same_answer


def test_strings_as_they_stand():
    same = Equivalence("string")
    pairs = {(" a b ", "a b"): True, ("1/2", "1/2\n"): True, ("0.5", "1/2"): False, ("A", "a"): False}
    assert {pair: same(*pair) for pair in pairs} == pairs
    assert (same.undecided, same.cut_off) == (0, 0)


NUMBERS = [
    *("0", "-0", "1", "-1", "1.0", "2", "10", "100", "007", "7", "7.0", "00.5", "0.5", "-0.5", "0.50", "1.5", "0.1", "0.10", "0.0"),
    *("1/2", "-1/2", "2/4", "3/2", "1/10", "10/1", "0/5", "22/7", "2/3", "-2/3", "314/100", "123456789/1000", "1/1000000", "2/1", "5/0"),
    *(r"\frac{1}{2}", r"-\frac{1}{2}", r"\dfrac{2}{4}", r"\tfrac{3}{6}", r"\frac{1}{3}", r"\frac{007}{1}"),
    *("1/3", "0.333333", "0.33333", "0.33", "0.3333334", "0.666667", "0.66666", "-0.666667", "3.142857", "3.142858", "3.14"),
    *("0.000001", "0.0000004", "1.00001", "1.000011", "1.999999", "999999999999", "999999999998", "999999.999999", "999999", "1000000"),
]  # fmt: skip


def test_what_is_decided_without_math_verify_is_what_it_would_say():
    pairs = list(itertools.combinations(NUMBERS, 2))
    assert len(pairs) > 1500
    same = Equivalence()
    for pair in pairs:
        a, b = sorted(pair)
        assert same.compare(a, b) is compare_texts(rf"\boxed{{{a}}}", rf"\boxed{{{b}}}", 10.0).comparison, pair
    assert len(same._seen) < len(pairs) / 5  # most of them were


FORMULAS = [
    *(r"\sqrt{2}", r"\frac{2}{\sqrt{2}}", r"\sqrt{8}", r"2\sqrt{2}", r"2^{3/2}", r"\sqrt{2}+1", r"1+\sqrt{2}", r"\frac{1}{\sqrt{2}-1}"),
    *(r"\sqrt{3}+\sqrt{2}", r"\sqrt{5+2\sqrt{6}}", r"\pi", r"\frac{2\pi}{2}", r"\pi+1", "x", "2x-y", "(x+1)^2", "x^2+2x+1", "x^2+1", "-x"),
    *(r"\sqrt{x^2}", "xy", "yx", "x-y", "y-x", r"\frac{x+1}{2}", r"\frac{x}{2}+0.5", r"\frac{x^2-1}{x-1}", "x+1", "X+1", "2x", "3+2x-3"),
]  # fmt: skip


def test_formulas_decided_by_their_values_are_what_math_verify_says():
    pairs = [tuple(sorted(pair)) for pair in itertools.combinations(FORMULAS, 2)]
    decided = {pair: same_answer(*map(read_answer, pair)) for pair in pairs}
    wrong = {}
    for pair, said in decided.items():
        equal = said is None or compare_texts(*(rf"\boxed{{{one}}}" for one in pair), 10.0).comparison is Comparison.EQUAL
        wrong |= {} if said in (None, equal) else {pair: said}
    assert (wrong, sum(said is True for said in decided.values()) > 15) == ({}, True)
    root = r"\sqrt{2}"
    big = ((rf"{root}+10^{{70}}+1-10^{{70}}", root), (rf"{root}+10^{{-40}}", root), ("x^{-90}", "y^{-90}"), ("nN", "n^2"))
    assert [same_answer(*map(read_answer, pair)) for pair in big] == [None] * 4


def test_plain_numbers_pairs_seen_and_long_answers_ask_nobody(monkeypatch):
    same = Equivalence()
    assert same(r"\sqrt{8}", r"2\sqrt{2}")
    monkeypatch.setattr(equivalence, "compare_texts", None)
    assert same(r"2\sqrt{2}", r" \sqrt{8}")
    assert same("x+1", "x+1 ")
    assert same("0.5", r"\frac{1}{2}")
    assert not same("3", "1/3")
    assert not same("0.5", "0.7")
    long = "1+" * 50_000 + "1"
    assert same(long, long + " ")
    assert not same(long, "50001")
    assert not Equivalence(max_length=3)("0.50", "1/2")


ALPHABET = st.text(alphabet="01x+-*/=^_(){}[]\\,. $%<|!", max_size=12)
SNIPPETS = st.lists(st.sampled_from([r"\frac{", *"}{1x^2=,() ", r"\sqrt", r"\text{a}"]), max_size=8)


@settings(max_examples=40, deadline=None)  # another process answers, whenever it gets a core
@given(st.one_of(ALPHABET, SNIPPETS.map("".join), st.text(max_size=8)), st.one_of(ALPHABET, SNIPPETS.map("".join)))
def test_any_two_texts_compare_alike_in_either_order(a, b):
    there, back = Equivalence(seconds=1.0), Equivalence(seconds=1.0)
    found = there.compare(a, b)
    assert back.compare(b, a) is found
    assert there(a, b) == (found is Comparison.EQUAL)
    assert there.compare(a, a + " ") is Comparison.EQUAL
    if a.strip() == b.strip():
        assert found is Comparison.EQUAL


BOMBS = [
    *("9^{9^{9^{9^9}}}", r"\prod_{n=1}^{10000000} n", "((((((99999!)!)!)!)!)!)", r"\binom{10^{10}}{5\cdot 10^9}"),
    *("x^{" * 300 + "2" + "}" * 300, "{" * 480 + "1" + "}" * 480, "(" * 480 + "1" + ")" * 480, "1" + "+1" * 490, "{" * 1000),
    *(r"\text{" * 150, "9" * 1000),
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_takes_too_long_is_cut_off_and_different(bomb):
    same = Equivalence(seconds=0.1)
    start = time.monotonic()
    assert not same(bomb, "42")
    assert not same(bomb, r"\sqrt{2} + x")
    assert not same("42", bomb)
    assert time.monotonic() - start < 60  # by itself the worst would take years
    assert same.undecided == 0
    if bomb in BOMBS[:3]:
        assert same.cut_off == 2


@pytest.fixture
def asked(monkeypatch):
    """The pairs put to a stand-in of math-verify that takes too long over what is endless, and over two slow ones."""
    questions = []

    def fake(gold, given, seconds):
        questions.append((gold, given))
        for side, text in (("gold", gold), ("given", given)):
            if "unreadable" in text:
                return Reply(Comparison.CUT_OFF, unread=side)
        slow = "endless" in gold + given or ("slow" in gold and "slow" in given)
        return Reply(Comparison.CUT_OFF if slow else Comparison.DIFFERENT)

    monkeypatch.setattr(equivalence, "compare_texts", fake)
    return questions


@pytest.mark.parametrize(("first", "second", "questions", "blamed"), [
    ("unreadable!", "x!", 1, {"unreadable!"}),  # it could not even be read: no need to ask further
    ("x!", "unreadable!", 1, {"unreadable!"}), ("endless!", "x!", 2, {"endless!"}), ("a!", "endless!", 3, {"endless!"}),
    ("7", "endless!", 2, {"endless!"}),  # a number needs no test
    ("slow!a", "slow!b", 3, set()),  # each is fine with other partners
])  # fmt: skip
def test_who_is_to_blame_for_a_pair_that_took_too_long(asked, first, second, questions, blamed):
    same = Equivalence()
    assert same.compare(first, second) is same.compare(second, first) is Comparison.CUT_OFF
    assert len(asked) == questions
    for answer in (first, second):
        expected = Comparison.CUT_OFF if answer in blamed else Comparison.DIFFERENT
        assert same.compare(answer, "y!") is expected
    assert len(asked) == questions + 2 - len(blamed)


def test_an_answer_that_takes_too_long_is_tried_once_a_batch(asked):
    same = Equivalence()
    assert [same.compare("endless!", f"x!+{i}") for i in range(30)] == [Comparison.CUT_OFF] * 30
    assert (len(asked), same.cut_off) == (2, 30)  # the pair, and the endless one by itself
    same.clear()
    assert same.cut_off == 30
    assert same.compare("endless!", "x!+1") is Comparison.CUT_OFF
    assert (same.cut_off, len(asked)) == (31, 4)


def test_what_cannot_be_read_is_undecided():
    same = Equivalence()
    assert same.compare("$" * 5, "42") is Comparison.UNDECIDED
    assert same.compare("", "$" * 5) is Comparison.UNDECIDED
    assert not same("42", "$" * 5)
    assert (same.undecided, same.cut_off) == (2, 0)
    assert same("$" * 5, "$" * 5)
    assert not same("", "5")


def test_a_vote_of_thirty_two_with_classes():
    forms = [r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", r"\sqrt{0.5}", r"2^{-1/2}"]
    answers = [forms[i // 3 % 4] if i % 3 == 0 else None if i % 7 == 0 else f"{i} + x" for i in range(31)] + ["9^{9^{9^{9}}}!"]
    votes = sum(answer is not None for answer in answers)
    assert majority_vote(answers, Equivalence(seconds=0.5)) == Vote(forms[0], 11, 11 / votes, votes - 11 + 1)
    assert majority_vote(answers).count == 3  # as strings they split


def test_threads_share_the_process():
    pairs = [(f"{i}x + {i % 3}x", f"{i + i % 3}x") for i in range(2, 10)] + [(f"{i}x", f"{i + 1}x") for i in range(8)]
    with ThreadPoolExecutor(len(pairs)) as pool:
        assert list(pool.map(Equivalence(), *zip(*pairs, strict=True))) == [True] * 8 + [False] * 8


def test_copies_keep_the_settings_and_start_empty():
    same = Equivalence(seconds=0.5, max_length=77)
    same("$$$", "42")
    for other in (copy.deepcopy(same), copy.copy(same), pickle.loads(pickle.dumps(same))):
        assert repr(other) == "Equivalence(kind='math', seconds=0.5, max_length=77)"
        assert (same.undecided, other.undecided, other._seen) == (1, 0, {})
    assert other("x+x", "2x")


def test_the_cache_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr(equivalence, "_MOST_CACHED", 3)
    same = Equivalence()
    assert not any(same("$$$", str(i)) for i in range(5))
    assert (len(same._seen) <= 3, same.undecided) == (True, 5)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"kind": "maths"}, "`kind` must be 'math' or 'string', got 'maths'"), ({"seconds": 0}, "`seconds` must be positive and finite, got 0"),
    ({"seconds": float("nan")}, "`seconds` must be positive and finite, got nan"),
    ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
])  # fmt: skip
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Equivalence(**arguments)
