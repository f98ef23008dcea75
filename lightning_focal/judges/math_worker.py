"""The process that compares formulas: a script that imports math-verify and nothing of this package, so that it starts quickly.

It reads one request a line (JSON) and answers each with a line for every formula read and one with the result. Run by
:mod:`lightning_focal.judges.math_process`, which says what the lines hold. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any

__all__ = ["clearly_differ", "main"]

_MEMORY = 1 << 30
"""Address space in bytes; the process itself has about 60 MB."""
_MOST_READ = 4096


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the time limit, whatever the parent ignores or blocks
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not pass for an answer
    for limit, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # not every system can
            resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))

    def reply(**fields: Any) -> None:
        os.write(replies, (json.dumps(fields) + "\n").encode())

    try:
        comparer = _Comparer()
        comparer.compare(r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", True)  # first use compiles patterns and grammars
    except Exception as error:
        reply(failed=f"{type(error).__name__}: {error}")
        return
    reply(ready=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # CPU time, so that a busy machine cuts off nothing that an idle one would not. The signal ends the process, inside one
        # long power of integers as well, and even when nobody is left to wait for the answer.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        result = comparer.compare(request["gold"], request["given"], request["both"], lambda: reply(read=True))
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply(**result)
        if result.get("error") == "MemoryError":  # whatever fills the memory would fail the next comparison, too
            return


class _Comparer:
    """Reads each formula once and compares what it has read."""

    def __init__(self) -> None:
        import math_verify

        self._package = math_verify
        self._read: dict[tuple[str, bool], tuple[list[Any], str]] = {}

    def read(self, text: str, formula: bool) -> tuple[list[Any], str]:
        """What math-verify reads in a text, and the name of the error if it failed."""
        key = (text, formula)
        if key not in self._read:
            if len(self._read) >= _MOST_READ:
                self._read.clear()
            configs = [self._package.LatexExtractionConfig()] + ([] if formula else [self._package.ExprExtractionConfig()])
            try:
                found = list(self._package.parse(text, configs, parsing_timeout=None, raise_on_error=True))
                self._read[key] = (found, "" if found else "nothing to read")
            except MemoryError:
                raise
            except Exception as error:
                self._read[key] = ([], type(error).__name__)
        return self._read[key]

    def compare(self, gold: str, given: str, both: bool, has_read: Any = lambda: None) -> dict[str, Any]:
        """Compare two texts: ``both`` = as two formulas, either of which may be the gold one."""
        try:
            golds, gold_error = self.read(gold, both)
            has_read()
            givens, given_error = self.read(given, both)
            has_read()
            if gold_error or given_error:
                return {"outcome": "undecided", "unread": "gold" if gold_error else "given", "error": gold_error or given_error}
            met, error = self._verify(golds, givens, both)
            if met and both:
                met, error = self._verify(givens, golds, both)
            shown = "" if both else str(givens[-1])[:60]
        except MemoryError:
            return {"outcome": "undecided", "error": "MemoryError"}
        return {"outcome": "undecided" if error else "equal" if met else "different", "error": error, "shown": shown}

    def _verify(self, golds: list[Any], givens: list[Any], both: bool) -> tuple[bool, str]:
        error = ""
        for gold in golds:
            for given in givens:
                try:
                    if both and clearly_differ(gold, given):
                        continue
                    if self._package.verify(gold, given, allow_set_relation_comp=both, timeout_seconds=None, raise_on_error=True):
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
    main()
