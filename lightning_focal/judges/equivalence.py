"""When two answers are the same."""

from __future__ import annotations

import math
import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges.math_process import Comparison, compare_texts

__all__ = ["Equivalence", "formula_text"]

_MOST_CACHED = 100_000
_FRACTION = re.compile(r"\A(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}\Z", re.ASCII)
_NUMBER = re.compile(r"-?(?:\d{1,12}(?:/\d{1,12})?|\d{1,6}\.\d{1,6})", re.ASCII)
_FULL_STOP = re.compile(r"(?<=[0-9])[.]\Z")
_MIXED = re.compile(r"\A(-?[0-9]+)\s+([0-9]+)/([0-9]+)\Z")
_ROUNDING = Fraction(1, 10**5)
"""math-verify rounds decimals to six places: what is farther apart is different."""


def formula_text(answer: str) -> str:
    r"""Write an answer so that math-verify takes all of it as one formula.

    A full stop after a last digit belongs to the sentence, not to the number, and ``1 2/3`` is a mixed number, of which
    math-verify would read the 1 alone (ours).

    >>> print(formula_text(" 5. "), formula_text("1 2/3"))
    \boxed{5} \boxed{1\frac{2}{3}}
    """
    answer = _MIXED.sub(r"\1\\frac{\2}{\3}", _FULL_STOP.sub("", answer.strip()))
    return f"\\boxed{{{answer}}}"


@lru_cache(maxsize=1 << 14)
def _number(answer: str) -> Fraction | None:
    """The value of an answer that is a plain number."""
    plain = _FRACTION.sub(r"\1\2/\3", answer)
    try:
        return Fraction(plain) if _NUMBER.fullmatch(plain) else None
    except ZeroDivisionError:
        return None


class Equivalence:
    r"""Says whether two answers are the same.

    ``math``: stripped, they are the same string, or math-verify holds them for equal whichever of them it takes for the gold one
    (it treats the two differently: ``2x + z = 1`` given for a gold ``1`` passes, ``1`` given for a gold ``2x + z = 1`` does not).
    So ``0.5``, ``1/2`` and ``\frac{1}{2}`` are one answer. ``string``: the same string, stripped (the choice of the code released
    with arXiv:2508.00410), and these are three.

    A policy can write formulas that no computer can evaluate (``9^{9^{9^9}}``), so math-verify works in a process of its own with
    a limit on time and memory, started by the first pair that needs it; plain numbers, equal strings and pairs already seen do
    not. What cannot be decided or takes too long counts as different. An answer that by itself takes too long is not tried again
    before :meth:`clear`. Results are symmetric, and may be asked for from any thread.

    Args:
        kind: ``"math"`` or ``"string"``.
        seconds: CPU time for one comparison, > 0, so that a busy machine cuts off no more than an idle one.
        max_length: longer answers, in characters, compare as strings alone.

    Raises:
        ValueError: on another ``kind``, or a limit that is not positive and finite.

    >>> same = Equivalence()
    >>> same("0.5", r"\frac{1}{2}"), same("1/2", "0.51"), Equivalence("string")("0.5", "1/2")
    (True, False, False)
    """

    def __init__(self, kind: Literal["math", "string"] = "math", seconds: float = 2.0, max_length: int = 1000) -> None:
        expect_choice("kind", kind, ("math", "string"))
        if not 0 < seconds < math.inf:
            raise ValueError(f"`seconds` must be positive and finite, got {seconds!r}")
        if not 0 < max_length < math.inf:
            raise ValueError(f"`max_length` must be at least 1, got {max_length!r}")
        self.kind, self.seconds, self.max_length = kind, float(seconds), int(max_length)
        self._seen: dict[tuple[str, str], Comparison] = {}
        self._endless: dict[str, bool] = {}  # answers that by themselves take too long
        self._counts = Counter[Comparison]()  # of the pairs asked about, those that were forgotten included

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, in this process or another, starts with nothing seen and nothing counted.
        return type(self), (self.kind, self.seconds, self.max_length)

    def __call__(self, a: str, b: str) -> bool:
        """True if the answers are the same."""
        return self.compare(a, b) is Comparison.EQUAL

    def compare(self, a: str, b: str) -> Comparison:
        """Say how the comparison came out; ``compare(a, b)`` and ``compare(b, a)`` are one pair.

        Raises:
            RuntimeError: if math-verify's process cannot be started.
        """
        a, b = sorted((a.strip(), b.strip()))
        if a == b:
            return Comparison.EQUAL
        if self.kind == "string" or len(a) > self.max_length or len(b) > self.max_length:
            return Comparison.DIFFERENT
        left, right = _number(a), _number(b)
        if left is not None and right is not None:
            if left == right:
                return Comparison.EQUAL
            if "." not in a + b or abs(left - right) > _ROUNDING:
                return Comparison.DIFFERENT
        found = self._seen.get((a, b))
        if found is None:
            found = self._ask(a, b)
            if len(self._seen) >= _MOST_CACHED:
                self.clear()
            self._seen[a, b] = found
            self._counts[found] += 1
        return found

    def _ask(self, a: str, b: str) -> Comparison:
        if self._endless.get(a) or self._endless.get(b):
            return Comparison.CUT_OFF
        reply = compare_texts(formula_text(a), formula_text(b), self.seconds, both=True)
        if reply.comparison is Comparison.CUT_OFF:
            self._blame(a, b, reply.unread)
        return reply.comparison

    def _blame(self, a: str, b: str, unread: str) -> None:
        """Find out whether one of a pair that took too long would do so with any partner."""
        if unread:
            self._endless[a if unread == "gold" else b] = True
        for answer in (a, b):
            if self._endless.get(a) or self._endless.get(b):
                return
            if answer not in self._endless and _number(answer) is None:
                alone = compare_texts(formula_text(answer), formula_text("1"), self.seconds, both=True)
                self._endless[answer] = alone.comparison is Comparison.CUT_OFF

    @property
    def undecided(self) -> int:
        """Pairs so far that math-verify could not read or compare."""
        return self._counts[Comparison.UNDECIDED]

    @property
    def cut_off(self) -> int:
        """Pairs so far that took too long, or hold an answer that does."""
        return self._counts[Comparison.CUT_OFF]

    def clear(self) -> None:
        """Forget the pairs seen, after each batch; the counts go on."""
        self._seen, self._endless = {}, {}

    def __repr__(self) -> str:
        return f"Equivalence(kind={self.kind!r}, seconds={self.seconds:g}, max_length={self.max_length})"
