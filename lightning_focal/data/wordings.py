"""The same question in other words: rephrasings of generated tasks that need no language model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

__all__ = ["TASK", "WORDINGS", "Wording", "in_words", "reword", "worked_steps"]

Wording = Callable[[str], str | None]
"""Puts a question in other words; None where it does not know the question's form."""

TASK = "task"
"""The name of a task's own words."""

_ARITHMETIC = (
    re.compile(r"State the final answer to the following arithmetic problem: (.+) ="),
    re.compile(r"(?:Calculate|Solve|Compute) (.+)\."),
    re.compile(r"Evaluate: (.+)\."),
    re.compile(r"What is (.+)\?"),
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_OPERATORS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by", "(": "open bracket", ")": "close bracket"}
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_GROUPS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))


def in_words(number: str) -> str:
    """Spell an unsigned decimal number; one of 10^15 or more, or of a digit string with leading zeros, digit by digit.

    >>> in_words("0"), in_words("42"), in_words("1305"), in_words("2.50")
    ('zero', 'forty-two', 'one thousand three hundred five', 'two point five zero')
    """
    whole, _, fraction = number.partition(".")
    plain = len(whole) <= 15 and whole == str(int(whole))
    spelt = _spell(int(whole)) if plain else _digits(whole)
    return f"{spelt} point {_digits(fraction)}" if fraction else spelt


def _digits(text: str) -> str:
    return " ".join(_SMALL[int(digit)] for digit in text)


def _spell(value: int) -> str:
    for size, name in _GROUPS:
        if value >= size:
            rest = value % size
            return f"{_spell(value // size)} {name}" + (f" {_spell(rest)}" if rest else "")
    if value < 20:
        return _SMALL[value]
    return _TENS[value // 10] + (f"-{_SMALL[value % 10]}" if value % 10 else "")


def _expression(question: str) -> str | None:
    found = next((match for form in _ARITHMETIC if (match := form.fullmatch(question.strip()))), None)
    expression = found[1] if found else None
    return expression if expression and not re.search(r"[^\d.+\-*/() ]", expression) else None


def _around(words: str) -> Wording:
    return lambda question: None if (expression := _expression(question)) is None else words.format(expression)


def _spelt(question: str) -> str | None:
    """Say ``What is four plus three?``; a sign in front of a number is read as minus, like the operator."""
    expression = _expression(question)
    if expression is None:
        return None
    tokens = re.findall(r"\d+(?:\.\d+)?|[+\-*/()]", expression)
    return f"What is {' '.join(in_words(t) if _NUMBER.fullmatch(t) else _OPERATORS[t] for t in tokens)}?"


def _told(question: str) -> str | None:
    """Say ``Add 3 to 4.``, ``Take 7 from 4.``; of more terms ``Start with 4, add 3, then take away 7.``."""
    terms = _terms(question)
    if terms is None or len(terms) < 2:
        return None
    (_, first), *rest = terms
    if len(rest) == 1:
        (sign, other) = rest[0]
        return f"Add {other} to {first}." if sign == "+" else f"Take {other} from {first}."
    steps = [f"{'add' if sign == '+' else 'take away'} {number}" for sign, number in rest]
    return f"Start with {first}, {', '.join(steps[:-1])}, then {steps[-1]}."


def _terms(question: str) -> list[tuple[str, str]] | None:
    """``[("+", "4"), ("-", "7")]`` of a chain of sums and differences of unsigned numbers, else None."""
    expression = _expression(question)
    if expression is None or not re.fullmatch(r"\d+(\.\d+)?( [+-] \d+(\.\d+)?)*", expression):
        return None
    first, *rest = expression.split(" ")
    return [("+", first), *zip(rest[::2], rest[1::2], strict=True)]


def _by_pattern(pattern: str, words: str) -> Wording:
    form = re.compile(pattern, re.DOTALL)
    return lambda question: found.expand(words) if (found := form.fullmatch(question.strip())) else None


_SUMS: Mapping[str, Wording] = {"spelt": _spelt, "plain": _around("Work out {}."), "told": _told, "bare": _around("{} =")}
_ASKED = {
    "products": (r"Solve the following multiplication: (\d+) \* (\d+)\. Give only the result as your final answer\.",
        r"How much is \1 times \2?"),
    "simple_equations": (r"(?:Find the value of|Solve for|Determine the value of) (\w)(?: in the equation| that satisfies)?: (.+) = (.+)",
        r"Which number must \1 be for \2 to equal \3?"),
    "gcd": (r"Find the Greatest Common Divisor \(GCD\) of these numbers: (.+)\. Give only the GCD as your final answer\.",
        r"What is the largest whole number that divides each of \1 without a remainder?"),
    "lcm": (r"Find the Least Common Multiple \(LCM\) of these numbers: (.+)",
        r"What is the smallest positive whole number that each of \1 divides without a remainder?"),
    "letter_counting": (r'How many times does the letter "(\w)" appear in the text: "(.+)"\?',
        r'Read this text: "\2". Count every "\1" in it. What is the count?'),
    "count_bits": (r"How many 1 bits are there in the binary representation of the number (\d+)\?",
        r"Write \1 in base two. How many of its digits are ones?"),
    "spell_backward": (r"Spell this word backward \(example: sun -> nus\): (.+)",
        r'Write the letters of "\1" from the last to the first, as in: sun -> nus.'),
}  # fmt: skip

WORDINGS: Mapping[str, Mapping[str, Wording]] = {
    **dict.fromkeys(("chain_sum", "decimal_chain_sum", "basic_arithmetic"), _SUMS),
    **{family: {"asked": _by_pattern(*form)} for family, form in _ASKED.items()},
}
"""Wordings by task family; the first of a family that knows a question's form is its default rephrasing."""


def reword(task: str, question: str, wording: str | None) -> str | None:
    """Put a question of a task family in other words.

    Args:
        task: the family.
        question: in the family's own words.
        wording: its name in :data:`WORDINGS`, ``task`` for the question as it is, or None for the family's first that fits.

    Returns:
        The words; None where ``wording`` is None and nothing fits.

    Raises:
        ValueError: for a wording that the family does not have, or that does not know this question's form.

    >>> question = "State the final answer to the following arithmetic problem: 4 - 7 ="
    >>> [reword("chain_sum", question, wording) for wording in ("spelt", "plain", "told", "bare")]
    ['What is four minus seven?', 'Work out 4 - 7.', 'Take 7 from 4.', '4 - 7 =']
    """
    family = WORDINGS.get(task, {})
    if wording is None:
        return next((words for put in family.values() if (words := put(question))), None)
    if wording == TASK:
        return question
    if wording not in family:
        raise ValueError(f"task {task!r} has no wording {wording!r}, it has: {', '.join([TASK, *family])}")
    words = family[wording](question)
    if not words:
        raise ValueError(f"the wording {wording!r} of task {task!r} cannot put this question: {question!r}")
    return words


def worked_steps(question: str) -> str | None:
    """Work out a chain of sums and differences step by step; None for any other question.

    >>> worked_steps("Calculate 4 - 1 - 7.")
    '4 - 1 = 3. 3 - 7 = -4.'
    """
    terms = _terms(question)
    if terms is None:
        return None
    value, steps = Decimal(terms[0][1]), []
    for sign, number in terms[1:]:
        result = value + Decimal(number) if sign == "+" else value - Decimal(number)
        steps.append(f"{value} {sign} {number} = {result}.")
        value = result
    return " ".join(steps)
