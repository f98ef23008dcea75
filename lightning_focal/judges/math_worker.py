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
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["NOTHING_READ", "clearly_differ", "compare", "main", "read"]

NOTHING_READ = "nothing to read"
"""The error of a text in which math-verify finds no formula."""
_MEMORY = 1 << 30
"""Address space in bytes; the process itself has about 60 MB."""


def main(pipe: Any) -> None:
    """Answer requests until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the time limit, whatever the parent ignores or blocks
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    for limit, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # not every system can
            resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
    try:
        compare(r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", True)  # first use compiles patterns and grammars
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            gold, given, both, seconds = pipe.recv()
            # CPU time, so that a busy machine cuts off nothing that an idle one would not. The signal ends the process, inside one
            # long power of integers as well, and even when nobody is left to wait for the answer.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            result = compare(gold, given, both, lambda: pipe.send(None))
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(result)
            if result.get("error") == "MemoryError":  # whatever fills the memory would fail the next comparison, too
                return


@lru_cache(maxsize=4096)
def read(text: str, formula: bool) -> tuple[list[Any], str]:
    """What math-verify reads in a text, and the name of the error if it failed."""
    import math_verify

    configs = [math_verify.LatexExtractionConfig()] + ([] if formula else [math_verify.ExprExtractionConfig()])
    try:
        found = list(math_verify.parse(text, configs, parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception as error:
        return [], type(error).__name__
    return found, "" if found else NOTHING_READ


def compare(gold: str, given: str, both: bool, has_read: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Compare two texts: ``both`` = as two formulas, either of which may be the gold one. ``has_read`` is called after each."""
    try:
        golds, gold_error = read(gold, both)
        has_read()
        givens, given_error = read(given, both)
        has_read()
        if gold_error or given_error:
            return {"comparison": "undecided", "unread": "gold" if gold_error else "given", "error": gold_error or given_error}
        met, error = _verify(golds, givens, both)
        if met and both:
            met, error = _verify(givens, golds, both)
        shown = "" if both else str(givens[-1])[:60]
    except MemoryError:
        return {"comparison": "undecided", "error": "MemoryError"}
    return {"comparison": "undecided" if error else "equal" if met else "different", "error": error, "shown": shown}


def _verify(golds: list[Any], givens: list[Any], both: bool) -> tuple[bool, str]:
    import math_verify

    error = ""
    for gold in golds:
        for given in givens:
            try:
                if both and clearly_differ(gold, given):
                    continue
                if math_verify.verify(gold, given, allow_set_relation_comp=both, timeout_seconds=None, raise_on_error=True):
                    return True, ""
            except MemoryError:
                raise
            except Exception as caught:
                error = type(caught).__name__
    return False, error


def clearly_differ(a: Any, b: Any) -> bool:
    """True if two expressions without relations have different values at one point: no need to simplify their difference.

    math-verify would try that, which takes it most of its time, and find it not zero. It rounds to six decimals and takes 50 %
    for 50; what comes near the one or holds the other is left to it.
    """
    import sympy

    if any(not isinstance(x, sympy.Expr) or isinstance(x, (sympy.Symbol, sympy.MatrixExpr)) for x in (a, b)):
        return False
    try:
        difference = a - b
        if difference.has(sympy.UnevaluatedExpr, sympy.zoo, sympy.nan, sympy.oo):
            return False
        symbols = sorted(difference.free_symbols, key=str)
        # No symbol takes a special value, and no two the same.
        value = difference.evalf(15, subs={symbol: sympy.Rational(101 + 10 * i, 97) for i, symbol in enumerate(symbols)})
        return bool(value.is_number and value.is_finite and abs(value) > 1e-4)
    except MemoryError:
        raise
    except Exception:
        return False


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
