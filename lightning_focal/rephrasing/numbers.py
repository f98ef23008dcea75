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
_UNITS = {word: value for value, word in enumerate(_SMALL)}
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_TENS = {word: 10 * value for value, word in enumerate(_DECADES, start=2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_OTHERS = {"half": "1/2", "quarter": "1/4", "dozen": "12", "twice": "2", "double": "2", "thrice": "3", "triple": "3"}


def numerals(text: str) -> Counter[str]:
    r"""Count the numbers that stand in digits, by value: ``1,000`` is ``1000``, ``0.50`` is ``1/2``.

    A fraction (``1/2``, ``\frac{1}{2}``) is one number. Signs and units are not looked at.

    >>> sorted(numerals(r"Of 1,250 apples \frac{1}{2} cost 0.50, 3.0 of them 3.").items())
    [('1/2', 2), ('1250', 1), ('3', 2)]
    """
    text = _JOINT.sub("", text)
    found: Counter[str] = Counter()
    for match in _NUMERAL.finditer(text):
        over, under = match["over"] or match["o"] or match["a"], match["under"] or match["u"] or match["b"]
        found[_value(match["plain"] or over, under or "1")] += 1
    return found


def number_words(text: str) -> Counter[str]:
    """Count the numbers that stand in English words, by value; also half, quarter, dozen, twice, double and triple.

    >>> sorted(number_words("Twenty-five men, two hundred and six women and half a dozen dogs."))
    ['1/2', '12', '206', '25']
    """
    found: Counter[str] = Counter()
    total, current, last, end = 0, 0, "", 0
    for match in [*re.finditer(r"[a-z]+", text.lower()), None]:
        word = match[0] if match is not None else ""
        joined = match is not None and re.fullmatch(r"[\s-]+", text[end : match.start()]) is not None
        value = _UNITS.get(word, _TENS.get(word))
        scale = _SCALES.get(word)
        goes_on = (
            joined
            and bool(last)
            and (
                (value is not None and (last in ("scale", "and") or (last == "ten" and 0 < value < 10)))
                or (scale is not None and last != "and")
                or (word == "and" and last == "scale")
            )
        )
        if last and not goes_on:
            found[str(total + current)] += 1
            total, current, last = 0, 0, ""
        if value is not None:
            current, last = current + value, "ten" if word in _TENS else "unit"
        elif scale == 100:
            current, last = max(current, 1) * 100, "scale"
        elif scale is not None:
            total, current, last = total + max(current, 1) * scale, 0, "scale"
        elif word == "and" and goes_on:
            last = "and"
        elif word in _OTHERS:
            found[_OTHERS[word]] += 1
        end = match.end() if match is not None else end
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


def _value(over: str, under: str) -> str:
    if len(over) + len(under) > 60:  # too long to be calculated with
        return f"{over.lstrip('0')}/{under.lstrip('0')}"
    return str(Fraction(over) / int(under)) if int(under) else f"{int(over)}/0"
