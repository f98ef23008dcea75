"""When two answers are the same."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, Literal

from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges.math_process import Comparison, Reply, compare_texts
from lightning_focal.judges.written_answers import Answer, gold_answer, read_answer, same_answer

__all__ = ["Equivalence", "compare_answers", "expect_gold", "gold_fault"]

_MOST_CACHED = 100_000


def compare_answers(a: Answer, b: Answer, seconds: float) -> Reply:
    """Compare two answers: by what they say where that is plain, else by math-verify, in ``seconds`` of CPU time at most."""
    found = same_answer(a, b)
    if found is not None:
        return Reply(Comparison.EQUAL if found else Comparison.DIFFERENT)
    named = bool(a.name and b.name) or any(one.text.count("=") for one in (a, b))
    factor = a.unit[0] / b.unit[0] if a.unit and b.unit else 1
    left = _formula(a, named) if factor == 1 else rf"\boxed{{\frac{{{factor.numerator}}}{{{factor.denominator}}}\cdot({a.text})}}"
    return compare_texts(left, _formula(b, named), seconds)


def _formula(answer: Answer, named: bool = False) -> str:
    text = re.sub(r"(?<=[\d}\s])[a-zA-Z]{1,2}\Z", r"{\g<0>}", answer.text)  # math-verify takes the t of 5t for a unit
    text = rf"\text{{{text}}}" if len(answer.word) > 2 and "\\" not in answer.text else answer.text
    return rf"\boxed{{{answer.name}={text}}}" if named and answer.name else rf"\boxed{{{text}}}"


_PAIRS = re.compile(r"\\(?:(left|begin)|(right|end))(?![a-zA-Z])|(?<!\\)(?:\\\\)*(?:(\{)|(\}))")
_LACKS = re.compile(r"\\(?:[dtc]?frac|sqrt|text)\s*(?:[$,;=)\]}]|\Z)|\\[dtc]?frac\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|\w)\s*(?:[$,;=)\]}]|\Z)"
                    r"|\\(?:[dtc]?frac|sqrt)\s*(?:\{[^{}]+\}\s*)?\{\s*\}|[\^_]\s*(?:\{\s*\}|[$)\]}]|\Z)")  # fmt: skip


def gold_fault(gold: str) -> str:
    r"""Say what is wrong with a gold answer as it is written: no number, or a formula that breaks off; empty if nothing is.

    >>> gold_fault("NaN"), gold_fault(r"\frac{1}{"), gold_fault(r"\frac{1}{2}")
    ('no number', 'a formula that is not whole', '')
    """
    answer = read_answer(gold_answer(gold))
    if any(part.text.strip("+-()[] ").lower() in ("nan", r"\text{nan}") for part in (answer, *answer.parts)):
        return "no number"
    open_pairs = [0, 0]
    for found in _PAIRS.finditer(gold):
        kind = found[3] is not None or found[4] is not None
        open_pairs[kind] += 1 if found[1] or found[3] else -1
        if open_pairs[kind] < 0:
            break
    return "a formula that is not whole" if any(open_pairs) or _LACKS.search(gold_answer(gold)) else ""


def expect_gold(name: str, gold: str, seconds: float = 2.0) -> Answer:
    """Read a gold answer, by itself or in a solution; ``name`` is what it is called, ``seconds`` the CPU time to read it.

    Raises:
        ValueError: if it is not a number (NaN), breaks off, or is nothing that can be read.
    """
    answer = read_answer(gold_answer(gold))
    if fault := gold_fault(gold):
        raise ValueError(f"`{name}` must be an answer, got {gold!r}, which is {fault}")
    if answer.number is not None or answer.word or answer.parts:
        return answer
    blank = not re.search(r"[^\W_]", answer.text)
    if blank or compare_texts(_formula(answer), r"\boxed{1}", seconds).unread == "gold":
        raise ValueError(f"`{name}` must be a number or formula math-verify can read, got {gold!r}")
    return answer


class Equivalence:
    r"""Says whether two answers are the same.

    ``math``: they say the same, however it is written, see :func:`~lightning_focal.judges.written_answers.same_answer`, or
    math-verify holds them for equal whichever of them it takes for the gold one. So ``0.5``, ``1/2`` and ``\frac{1}{2}`` are one
    answer. ``string``: the same string, stripped (the choice of the code released with arXiv:2508.00410), and these are three.

    A policy can write formulas that no computer can evaluate (``9^{9^{9^9}}``), so math-verify works in a process of its own with
    a limit on time and memory, asked about pairs that nothing simpler decides. What cannot be decided or takes too long counts as
    different. An answer that by itself takes too long is not tried again before :meth:`clear`.

    Args:
        kind: ``"math"`` or ``"string"``.
        seconds: CPU time for one comparison, > 0.
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
        """Say how the comparison came out, the same in either order; ``RuntimeError`` if math-verify's process cannot be started."""
        a, b = sorted((a.strip(), b.strip()))
        if a == b:
            return Comparison.EQUAL
        if self.kind == "string" or len(a) > self.max_length or len(b) > self.max_length:
            return Comparison.DIFFERENT
        plain = same_answer(read_answer(a), read_answer(b))
        if plain is not None:
            return Comparison.EQUAL if plain else Comparison.DIFFERENT
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
        reply = compare_answers(read_answer(a), read_answer(b), self.seconds)
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
            if answer not in self._endless and read_answer(answer).number is None:
                alone = compare_texts(_formula(read_answer(answer)), r"\boxed{1}", self.seconds)
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
