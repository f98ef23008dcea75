"""Checks by a program: mathematics, and a Python function of one's own."""

from __future__ import annotations

import importlib
import inspect
import math
import numbers
import threading
from collections.abc import Callable
from typing import Any

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import verdict
from lightning_focal.judges.rules.view import ResponseView

__all__ = ["load_function"]

_SECONDS = 2


def _limit() -> int | None:
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start == -1:
        return None
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start : end + 1]
    return None


@check("answer", {"expected": "42"})
def answer(expected: str) -> Run:
    r"""The last `\boxed{...}`, or else the last number or formula, equals `expected` by math-verify.

    Comparing is cut off after 2 s and is then an error, not a miss. Only the main thread can set
    that limit: in another thread it is an error.
    """
    import math_verify
    from math_verify.errors import TimeoutException

    def parse(text: str) -> list[Any]:
        return list(math_verify.parse(text, parsing_timeout=_limit(), raise_on_error=True))

    gold = parse(expected if "\\boxed" in expected or "$" in expected else f"$\\boxed{{{expected}}}$")
    if not gold:
        raise ValueError(f"`expected` must be a number or formula math-verify can read, got {expected!r}")

    def run(view: ResponseView) -> Verdict:
        boxed = _last_boxed(view.text)
        try:
            given = parse(view.text if boxed is None else f"${boxed}$")
        except Exception as error:
            return verdict(False, f"the answer cannot be read ({type(error).__name__})")
        if not given:
            return verdict(False, "no answer found")
        met = bool(math_verify.verify(gold, given, timeout_seconds=_limit(), raise_on_error=True))
        return verdict(met, f"answer {str(given[-1])[:60]!r}, expected {expected!r}")

    def in_time(view: ResponseView) -> Verdict:
        if _limit() is None:  # the limit is a signal, which Python gives to the main thread alone
            return Verdict(Outcome.ERROR, None, "math-verify can limit its time in the main thread only")
        try:
            return run(view)
        except TimeoutException:  # a BaseException: `except Exception` would let it end the training
            return Verdict(Outcome.ERROR, None, f"math-verify cut off after {_SECONDS} s")

    return in_time


def load_function(target: str) -> Callable[..., Any]:
    """Import a function by ``package.module:function``.

    Raises:
        ValueError: if the path has another form, the module cannot be imported, or has no such function.

    >>> load_function("math:sqrt")(9.0)
    3.0
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ValueError(f"`target` must read 'package.module:function', got {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"`target` must name a module that can be imported, got {target!r} ({error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"`target` must name a function of {module_name}, got {target!r}")
    return function  # type: ignore[no-any-return]


@check("python", {"target": "my_package.checks:rhymes", "arguments": {"lines": 2}})
def python(target: str, arguments: dict[str, Any] | None = None) -> Run:
    """`target(messages, response, **arguments)` returns true; or a grade from `low` to `high`; None = not applicable."""
    function, settled = load_function(target), dict(arguments or {})
    try:
        inspect.signature(function).bind((), "", **settled)
    except TypeError as error:
        raise ValueError(f"`arguments` must fit {target}(messages, response, ...), got {settled!r} ({error})") from None

    def run(view: ResponseView) -> Verdict:
        result = function(view.messages, view.text, **settled)
        if result is None:
            return Verdict(Outcome.NOT_APPLICABLE, None, f"{target} returned None")
        result = result.item() if hasattr(result, "item") else result
        if isinstance(result, bool):
            return verdict(result, f"{target} returned {result}")
        if isinstance(result, numbers.Real) and math.isfinite(result):
            return Verdict(Outcome.GRADED, float(result), f"{target} returned {result:g}")
        return Verdict(Outcome.ERROR, None, f"{target} must return true, false, a finite number or None, got {result!r}"[:200])

    return run
