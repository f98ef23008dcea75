"""Which numbers a text holds, and whether a rephrasing keeps them."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

__all__ = ["number_words", "numbers_changed", "numerals"]

_JOINT = re.compile(r"(?<=[0-9])(\{,\}|\\,|\\!|,)(?=[0-9]{3}(?![0-9]))")
_NUMERAL = re.compile(
    r"\\[dtc]?frac\s*\{\s*(?P<over>[0-9]+)\s*\}\s*\{\s*(?P<under>[0-9]+)\s*\}"
    r"|\\[dtc]?frac\s*(?P<o>[0-9])\s*(?P<u>[0-9])"
    r"|(?P<a>[0-9]+)\s*/\s*(?P<b>[0-9]+)(?![0-9]*\.[0-9])"
    r"|(?P<plain>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
)
_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen""".split()  # noqa: SIM905
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_VALUES = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * value for value, word in enumerate(_DECADES, start=2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_OTHERS = {"half": "1/2", "quarter": "1/4", "dozen": "12", "twice": "2", "double": "2", "thrice": "3", "triple": "3"}
_END, _GAP = r"(?![a-z])", r"[\s-]+"
_VALUE = rf"(?:(?:{'|'.join(_DECADES)}){_END}(?:{_GAP}(?:{'|'.join(_SMALL[1:10])}){_END})?|(?:{'|'.join(_SMALL)}){_END})"
_SCALE = rf"(?:{'|'.join(_SCALES)}){_END}(?:{_GAP}(?:and{_GAP})?{_VALUE})?"  # and what is added to it: hundred and six
_WORDS = re.compile(rf"(?<![a-z])(?:{_VALUE}|{_SCALE})(?:{_GAP}{_SCALE})*|(?<![a-z])(?P<other>{'|'.join(_OTHERS)}){_END}")


def numerals(text: str) -> Counter[str]:
    r"""Count the numbers that stand in digits, by value: ``1,000`` is ``1000``, ``0.50`` is ``1/2``.

    A fraction (``1/2``, ``\frac{1}{2}``) is one number. Signs and units are not looked at.

    >>> sorted(numerals(r"Of 1,250 apples \frac{1}{2} cost 0.50, 3.0 of them 3.").items())
    [('1/2', 2), ('1250', 1), ('3', 2)]
    """
    found: Counter[str] = Counter()
    for match in _NUMERAL.finditer(_JOINT.sub("", text)):
        over = match["plain"] or match["over"] or match["o"] or match["a"]
        under = match["under"] or match["u"] or match["b"] or "1"
        if len(over) + len(under) > 60:  # too long to be calculated with
            found[f"{over.lstrip('0')}/{under.lstrip('0')}"] += 1
        else:
            found[str(Fraction(over) / int(under)) if int(under) else f"{int(over)}/0"] += 1
    return found


def number_words(text: str) -> Counter[str]:
    """Count the numbers that stand in English words, by value; also half, quarter, dozen, twice, double and triple.

    >>> sorted(number_words("Twenty-five men, two hundred and six women and half a dozen dogs."))
    ['1/2', '12', '206', '25']
    """
    found: Counter[str] = Counter()
    for match in _WORDS.finditer(text.lower()):
        if match["other"]:
            found[_OTHERS[match["other"]]] += 1
            continue
        total = current = 0
        for word in re.findall("[a-z]+", match[0]):
            if word in _VALUES:
                current += _VALUES[word]
            elif word == "hundred":
                current = max(current, 1) * 100
            elif word in _SCALES:
                total, current = total + max(current, 1) * _SCALES[word], 0
        found[str(total + current)] += 1
    return found


def numbers_changed(question: str, rephrased: str) -> str | None:
    """Say which numbers a rephrasing lost or added; None if it keeps them all.

    Each numeral of the question has to occur in the rephrasing as often, in digits or in words, and the rephrasing may hold no
    numeral that the question does not hold in digits or in words. Words alone (one of them, the two) ask for nothing.

    >>> numbers_changed("Tom has 3 apples and 1/2 pear.", "Ann owns three plums and 0.5 melon.")
    >>> numbers_changed("Tom has 3 apples.", "Ann has 4 plums.")
    'lost 3; new 4'
    """
    before, after = numerals(question), numerals(rephrased)
    lost, new = before - after - number_words(rephrased), after - before - number_words(question)
    said = [f"{name} {', '.join(sorted(some.elements()))}" for name, some in (("lost", lost), ("new", new)) if some]
    return "; ".join(said) or None
