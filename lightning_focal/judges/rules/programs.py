"""Checks by a program: mathematics, a Python function of one's own, and the instructions of IFEval and IFBench."""

from __future__ import annotations

import importlib
import inspect
import math
import numbers
import re
from collections.abc import Callable
from typing import Any

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.equivalence import compare_answers, expect_gold
from lightning_focal.judges.math_process import Comparison
from lightning_focal.judges.math_worker import NOTHING_READ
from lightning_focal.judges.rules.registry import Run, check, verdict
from lightning_focal.judges.rules.view import ResponseView
from lightning_focal.judges.written_answers import gold_answer, read_answer, stated_answer
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["environment_score", "load_function"]

_SECONDS = 2.0
_MOST_CHARACTERS = 1000  # longer answers are compared as strings


@check("answer", {"expected": "42"})
def answer(expected: str) -> Run:
    r"""The last `\boxed{...}`, or else the last "answer is ..." or "Answer: ...", number or formula, equals `expected`.

    Comparing is cut off after 2 s (of CPU time, in a process of its own) and is then an error, not a miss.
    """
    gold = expect_gold("expected", expected, _SECONDS)

    def run(view: ResponseView) -> Verdict:
        stated = stated_answer(view.text)
        if stated is None:
            return verdict(False, "no answer found")
        if len(stated) > _MOST_CHARACTERS:
            return verdict(stated == gold_answer(expected), f"the answer has {len(stated)} characters")
        reply = compare_answers(gold, read_answer(stated), _SECONDS)
        if reply.comparison is Comparison.CUT_OFF:
            return Verdict(Outcome.ERROR, None, f"math-verify cut off after {_SECONDS:g} s")
        if reply.unread == "given":
            nothing = reply.error == NOTHING_READ
            return verdict(False, "no answer found" if nothing else f"the answer cannot be read ({reply.error})")
        if reply.comparison is Comparison.UNDECIDED:
            return Verdict(Outcome.ERROR, None, f"math-verify could not compare the answer ({reply.error})")
        return verdict(reply.comparison is Comparison.EQUAL, f"answer {stated[:60]!r}, expected {expected!r}")

    return run


@check("environment")
def environment(score: str | None = None) -> Run:
    """What `model.environment` gives under the name `score`, the criterion's own by default, in 0 to 1."""

    def run(view: ResponseView) -> Verdict:
        return Verdict(Outcome.ERROR, None, "an environment alone scores this, and none rolled out")

    return run


def environment_score(criterion: Criterion) -> str | None:
    """Return the name of the environment's score that a criterion takes; None = a judge judges it.

    >>> environment_score(Criterion("right", "Is right.", check={"kind": "environment"}))
    'right'
    """
    check = criterion.check
    return None if check is None or check["kind"] != "environment" else str(check.get("score") or criterion.name)


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


def _checker_class(instruction: str) -> Any:
    known: dict[str, Any] = {}
    for benchmark in ("ifeval", "ifbench"):
        try:
            known |= importlib.import_module(f"if_verifiable.{benchmark}.instructions_registry").INSTRUCTION_DICT
        except ImportError as error:
            message = f"`instruction` needs the package if-verifiable: pip install 'lightning-focal[ifeval]' ({error})"
            raise ValueError(message) from error
        if instruction in known:
            return known[instruction]
    raise ValueError(f"`instruction` must be one of IFEval or IFBench ({', '.join(sorted(known))}), got {instruction!r}")


_PROBE = "One of two words here. " * 100
_MISSING_DATA = re.compile(r"nltk\.download\('([^']+)'\)")


def _try_out(checker: Any, instruction: str, given: dict[str, Any]) -> None:
    """Refuse a checker that lacks a package or data, or whose pattern does not compile: it would fail on every response."""
    try:
        checker.check_following(_PROBE)
    except ImportError as error:
        raise ValueError(f"`instruction` {instruction} needs a package that is not installed ({error})") from error
    except re.error as error:
        raise ValueError(f"`arguments` of {instruction} must be regular expressions, got {given!r} ({error})") from error
    except LookupError as error:
        if type(error) is LookupError:  # as nltk raises it; a KeyError or IndexError is about the text
            found = _MISSING_DATA.search(str(error))
            data = found[1] if found else str(error).strip()
            message = f"`instruction` {instruction} needs the data {data} of nltk: python -m nltk.downloader {data}"
            raise ValueError(message) from error
    except Exception:  # about the text, too: the judge gives an error for such a response
        return


@check("ifeval", {"instruction": "keywords:existence", "arguments": {"keywords": ["tea", "milk"]}})
def ifeval(instruction: str, arguments: dict[str, Any] | None = None, loose: bool = False) -> Run:
    """The instruction of IFEval or IFBench is followed (`loose`: by one of the benchmark's eight variants of the response).

    An argument left out would be drawn at random by the package, so that two runs would judge differently: it is refused.
    """
    checker, given = _checker_class(instruction)(instruction), dict(arguments or {})
    variants = importlib.import_module("if_verifiable.common").get_loose_transformations
    importlib.import_module("langdetect").DetectorFactory.seed = 0  # its guesses vary from run to run otherwise
    missing = sorted(set(checker.get_instruction_args_keys()) - given.keys())
    if missing:
        raise ValueError(f"`arguments` of {instruction} must hold {', '.join(missing)}, got {given!r}")
    try:
        checker.build_description(**given)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"`arguments` must fit {instruction}, got {given!r} ({error})") from error
    _try_out(checker, instruction, given)

    def run(view: ResponseView) -> Verdict:
        texts = variants(view.text) if loose else [view.text]
        met = any(text.strip() and checker.check_following(text) for text in texts)
        return verdict(met, f"{instruction} {'followed' if met else 'not followed'}")

    return run
