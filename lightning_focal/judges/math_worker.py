"""The process that compares formulas: a script that imports math-verify and nothing of this package, so that it starts quickly.

Run by :mod:`lightning_focal.judges.math_process` with the number of its end of a pipe. It sends an empty string when it is ready, or
why it cannot be. It answers each request with a None for every formula read and a mapping with the result, and ends with the pipe.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["NOTHING_READ", "all_paired", "compare", "decide", "main", "read", "same_value"]

NOTHING_READ = "nothing to read"
"""The error of a text in which math-verify finds no formula."""
_MEMORY = 1 << 30
"""Address space in bytes; the process itself has about 60 MB."""
_NOISE = Fraction(1, 10**13)
_DIGITS = 40


def main(pipe: Any) -> None:
    """Answer requests until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the time limit, whatever the parent ignores or blocks
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    for limit, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # not every system can
            resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
    try:
        for gold, given in ((r"\sqrt{2}+x", "0.5"), (r"\ln x+\sin x", r"\sin x+\ln x")):  # first use compiles patterns and grammars
            compare(rf"\boxed{{{gold}}}", rf"\boxed{{{given}}}")
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            gold, given, seconds = pipe.recv()
            # CPU time, so that a busy machine cuts off nothing that an idle one would not. The signal ends the process, inside one
            # long power of integers as well, and even when nobody is left to wait for the answer.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            result = compare(gold, given, lambda: pipe.send(None))
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(result)
            if result.get("error") == "MemoryError":  # whatever fills the memory would fail the next comparison, too
                return


@lru_cache(maxsize=4096)
def read(text: str) -> tuple[list[Any], str]:
    """What math-verify reads in a text, and the name of the error if it failed."""
    import math_verify

    try:
        configs = [math_verify.LatexExtractionConfig()]
        found = list(math_verify.parse(text, configs, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception as error:
        return [], type(error).__name__
    return found, "" if found else NOTHING_READ


def compare(gold: str, given: str, has_read: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Compare two formulas, either of which may be the gold one; ``has_read`` is called after each."""
    try:
        golds, gold_error = read(gold)
        has_read()
        givens, given_error = read(given)
        has_read()
        if gold_error or given_error:
            return {"comparison": "undecided", "unread": "gold" if gold_error else "given", "error": gold_error or given_error}
        met, error = _verify(golds, givens)
        if met:
            met, error = _verify(givens, golds)
    except MemoryError:
        return {"comparison": "undecided", "error": "MemoryError"}
    return {"comparison": "undecided" if error else "equal" if met else "different", "error": error}


def _verify(golds: list[Any], givens: list[Any]) -> tuple[bool, str]:
    import math_verify

    error = ""
    for gold in golds:
        for given in givens:
            try:
                a, b = _unassigned(gold, given)
                met = decide(a, b)
                if met is None:
                    met = math_verify.verify(a, b, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
                elif not met:
                    return False, ""
                if met:
                    return True, ""
            except MemoryError:
                raise
            except Exception as caught:
                error = type(caught).__name__
    return False, error


def same_value(a: Fraction, a_step: Fraction | None, b: Fraction, b_step: Fraction | None) -> bool:
    """Whether two numbers are one, at whatever size.

    Exact numbers must be equal. A step is what the last written digit of a decimal counts, None for what nobody rounded. The coarser
    of two decimals, or the one beside an exact number, may stand for what it is a rounding or the first digits of, if it has six
    digits that count, or six decimal places and five; so 0.333333 and 3.33333e-8 are 1/3 and 1/30000000, and 4e-7 is not 1e-7.

    >>> third, step = Fraction(1, 3), Fraction(1, 10**6)
    >>> same_value(third, None, Fraction("0.333333"), step), same_value(Fraction("4e-7"), step / 10, Fraction("1e-7"), step / 10)
    (True, False)
    """
    if a == b:
        return True
    difference, size = abs(a - b), max(abs(a), abs(b))
    step = max(filter(None, (a_step, b_step)), default=None)
    if step is None:
        return False
    if difference <= _NOISE * size:
        return True
    if step > size / (10**4 if step * 10**6 <= 1 else 10**5):
        return False
    coarse, fine = (a, b) if a_step == step else (b, a)
    return 2 * difference <= step or (abs(coarse) < abs(fine) and difference < step)


def all_paired(table: list[list[bool | None]]) -> bool | None:
    """Whether every element of two sets has a like in the other, by a table of who is like whom; None = not known."""
    lines = [*table, *map(list, zip(*table, strict=True))]
    if any(all(found is False for found in line) for line in lines):
        return False
    return True if all(True in line for line in lines) else None


def decide(a: Any, b: Any) -> bool | None:
    """Whether two numbers, or two lists, intervals or matrices of numbers, are the same; None = math-verify must say so.

    math-verify rounds to six decimals, where all small numbers are one; this compares by :func:`same_value`, or to forty digits.
    Expressions with symbols are compared by their values at four points, which saves simplifying their difference.
    """
    import sympy

    a, b = _unassigned(a, b)
    if isinstance(a, sympy.Eq) and isinstance(b, sympy.Eq):
        return _same_equations(a, b)
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return _all(zip(a.flat(), b.flat(), strict=True)) if a.shape == b.shape else False
    if isinstance(a, sympy.Tuple) and isinstance(b, sympy.Tuple):
        return _all(zip(a, b, strict=True)) if len(a) == len(b) else False
    if isinstance(a, sympy.Interval) and isinstance(b, sympy.Interval):
        return (a.left_open, a.right_open) == (b.left_open, b.right_open) and _all(((a.start, b.start), (a.end, b.end)))
    if isinstance(a, sympy.FiniteSet) and isinstance(b, sympy.FiniteSet):
        return all_paired([[decide(x, y) for y in b.args] for x in a.args])
    if not all(isinstance(x, sympy.Expr) and not isinstance(x, (sympy.Symbol, sympy.MatrixExpr)) for x in (a, b)):
        return None
    if a.has(sympy.UnevaluatedExpr) or b.has(sympy.UnevaluatedExpr):
        return None
    if a.is_infinite or b.is_infinite:
        return bool(a == b) if a.is_number and b.is_number else None
    return _same_values(a, b) if a.free_symbols or b.free_symbols else _same_numbers(a, b)


def _unassigned(a: Any, b: Any) -> tuple[Any, Any]:
    """The right sides of two assignments to one symbol, or of one beside an expression; else the two as they are."""
    import sympy

    sides = [
        x.lhs if isinstance(x, sympy.Eq) and (x.lhs.is_Symbol or isinstance(x.lhs, sympy.core.function.AppliedUndef)) else None
        for x in (a, b)
    ]
    if sides[0] is not None and sides[0] == sides[1]:
        return a.rhs, b.rhs
    plain = (sympy.Expr, sympy.Set, sympy.Tuple, sympy.MatrixBase)
    if sides[0] is not None and isinstance(b, plain):
        return a.rhs, b
    return (a, b.rhs) if sides[1] is not None and isinstance(a, plain) else (a, b)


def _same_equations(a: Any, b: Any) -> bool | None:
    """True if the sides of two equations differ by multiples of each other; None = they may have the same solutions."""
    import sympy

    left, right = a.lhs - a.rhs, b.lhs - b.rhs
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    ratios = []
    for step in (10, 14, 23):
        point = {symbol: sympy.Rational(101 + step * (i + 1), 97) for i, symbol in enumerate(symbols)}
        ratios.append((left / right).evalf(20, subs=point))
    if all(ratio.is_number and ratio.is_finite for ratio in ratios):
        if max(abs(ratio - ratios[0]) for ratio in ratios) <= 1e-15 * abs(ratios[0]):
            return True
        return None if sympy.solve(a) and sympy.solve(b) else False
    return None


def _all(pairs: Any) -> bool | None:
    found = [decide(x, y) for x, y in pairs]
    return False if False in found else None if None in found else True


def _same_numbers(a: Any, b: Any) -> bool | None:
    import sympy

    a, b = a.doit(), b.doit()
    if all(isinstance(x, (sympy.Rational, sympy.Float)) for x in (a, b)):
        return same_value(*_written(a), *_written(b))
    (x, x_step), (y, y_step) = _evaluated(a), _evaluated(b)
    if x is None or y is None:
        return None
    if not (isinstance(x, Fraction) and isinstance(y, Fraction)):  # complex numbers
        return bool(abs(x - y) <= 10 ** (10 - _DIGITS) * max(abs(x), abs(y)))
    if not x_step and not y_step:
        return bool(abs(x - y) <= max(abs(x), abs(y)) / 10 ** (_DIGITS - 10))
    return same_value(x, x_step, y, y_step)


def _written(number: Any) -> tuple[Fraction, Fraction | None]:
    """Value of a Rational or Float, and the step of a decimal that may have been rounded."""
    import sympy

    if isinstance(number, sympy.Rational):
        return Fraction(int(number.p), int(number.q)), None
    digits, _, power = str(number).partition("e")
    places = len(digits.rstrip("0").partition(".")[2]) - int(power or 0)
    return Fraction(str(number)), Fraction(1, 10) ** places if places >= 3 or power else None


def _evaluated(number: Any) -> tuple[Any, Fraction | None]:
    """Value to forty digits, as a Fraction where it is real, and a step where decimals in it may have been rounded; None = no value."""
    import sympy

    written = {one: _written(one) for one in number.atoms(sympy.Float)}
    rational = {one: sympy.Rational(value.numerator, value.denominator) for one, (value, _) in written.items()}
    exact = number.xreplace(rational).doit()
    if isinstance(exact, sympy.Rational):
        value: Any = Fraction(int(exact.p), int(exact.q))
    else:
        found = exact.evalf(_DIGITS, maxn=400)
        if not found.is_number or not found.is_finite or 0 < abs(found) < 1e-90:
            return None, None
        value = Fraction(str(found)) if found.is_Float else found
    steps = [abs(step / size) for size, step in written.values() if step and size]
    return value, abs(value) * max(steps) if steps and isinstance(value, Fraction) else None


def _same_values(a: Any, b: Any) -> bool | None:
    """Whether two expressions with symbols have the same values at points of either sign; None = no such value, or nearly the same.

    Where symbols are negative, only real values count: the square root of 1/n is 1 over that of n for positive n alone.
    """
    import sympy

    same = []
    try:
        if any(x.has(sympy.zoo, sympy.nan, sympy.oo) for x in (a, b)):
            return None
        symbols = sorted(a.free_symbols | b.free_symbols, key=str)
        for step, signs in ((10, (1, 1)), (14, (1, 1)), (23, (-1, 1)), (31, (-1, -1))):
            # no symbol takes a special value, and no two the same
            point = {symbol: sympy.Rational(signs[i % 2] * (101 + step * (i + 1)), 97) for i, symbol in enumerate(symbols)}
            x, y = (value.evalf(20, subs=point) for value in (a, b))
            if not all(value.is_number and value.is_finite for value in (x, y)):
                return None
            if signs[0] > 0 or (x.is_real and y.is_real):
                difference, size = abs(x - y), max(abs(x), abs(y))
                if difference > 1e-6 * size:
                    return False
                same.append(difference <= 1e-15 * size)
    except MemoryError:
        raise
    except Exception:
        return None
    return True if all(same) else None


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
