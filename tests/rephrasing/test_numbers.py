"""Numbers of a question and of its rephrasing."""

from collections import Counter

from lightning_focal.rephrasing import number_words, numbers_changed, numerals

NUMERALS = [
    ("1,000 or 1000 or 1{,}000 or 1\\,000 or 01000", {"1000": 5}), ("1,234,567.5", {"2469135/2": 1}),
    ("the set 1,2,3", {"1": 1, "2": 1, "3": 1}), ("1,2345", {"1": 1, "2345": 1}),
    ("0.5, .5, 0.50, 1/2, 2 / 4, \\frac{1}{2}, \\dfrac{1}{2}, \\frac12", {"1/2": 8}), ("50% of $3.20", {"50": 1, "16/5": 1}),
    ("\\frac{x}{2}", {"2": 1}), ("5/0", {"5/0": 1}), ("1.2.3", {"6/5": 1, "3/10": 1}), ("½ and ٣", {}),
]  # fmt: skip
WORDS = [
    ("nothing, none, anyone", {}), ("twenty five and Thirty-Two", {"25": 1, "32": 1}), ("twenty, five", {"20": 1, "5": 1}),
    ("one hundred and six", {"106": 1}), ("three hundred twelve thousand and four", {"312004": 1}), ("two million", {"2000000": 1}),
    ("five and six", {"5": 1, "6": 1}), ("a hundred and", {"100": 1}), ("fifteen twenty", {"15": 1, "20": 1}),
    ("half a dozen, twice", {"1/2": 1, "12": 1, "2": 1}), ("twenty zero", {"20": 1, "0": 1}),
]  # fmt: skip
CHANGED = [
    ("3 and 3", "3 only", "lost 3"), ("3", "3 and 3", "new 3"), ("3 apples", "three pears", None),
    ("3 apples", "3 pears, one of them red, the two others green", None), ("1,000 of 2.50", "1000 of 5/2", None),
    ("2 times as many", "twice as many", None), ("7 and 8", "9", "lost 7, 8; new 9"), ("1/2", "1 and 2", "lost 1/2; new 1, 2"),
]  # fmt: skip


def test_numerals_and_number_words():
    for read, cases in ((numerals, NUMERALS), (number_words, WORDS)):
        assert {text: read(text) for text, _ in cases} == {text: Counter(found) for text, found in cases}


def test_what_changed():
    for question, rephrased, changed in CHANGED:
        assert numbers_changed(question, rephrased) == changed, question
    # long digits are compared as they stand
    assert numbers_changed("9" * 100_000, "9" * 100_000) is None
    assert numbers_changed("9" * 5000, "9" * 5001).startswith("lost 999")
