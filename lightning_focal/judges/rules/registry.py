"""The kinds of rule checks: registered by name, their arguments validated before anything is judged."""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Union, get_args, get_origin, get_type_hints

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.view import ResponseView

__all__ = ["CHECKS", "CheckKind", "Count", "Run", "check", "compile_check", "count_between"]
__all__ += ["described", "listed", "negated", "none", "register", "rule", "several", "verdict"]

Run = Callable[[ResponseView], Verdict]
"""A check whose arguments are settled."""
Count = Callable[[ResponseView], float]
"""What is counted in a response."""


@dataclass(frozen=True)
class CheckKind:
    """One kind of check.

    Args:
        kind: its name in ``{"kind": ...}``.
        factory: takes the arguments, refuses bad ones with ValueError, and returns the check itself.
        parameters: name, annotation and default of each argument; the default is ``...`` where it must be given.
        summary: when it is met, in one line.
        example: a complete check of this kind.
        graded: True when it gives a grade in [0, 1], stretched to the criterion's ``low`` to ``high``.
    """

    kind: str
    factory: Callable[..., Run]
    parameters: Mapping[str, tuple[Any, Any]]
    summary: str
    example: Mapping[str, Any]
    graded: bool = False


CHECKS: dict[str, CheckKind] = {}
"""Check kinds by name."""


def register(
    kind: str,
    factory: Callable[..., Run],
    parameters: Mapping[str, tuple[Any, Any]],
    summary: str,
    example: Mapping[str, Any] | None = None,
    graded: bool = False,
) -> None:
    """Add a kind to :data:`CHECKS`, ``example`` without the kind; ``ValueError`` if the name is taken."""
    if kind in CHECKS:
        raise ValueError(f"`kind` must be a new name, got {kind!r}, which is taken")
    CHECKS[kind] = CheckKind(kind, factory, parameters, summary, {"kind": kind, **(example or {})}, graded)


def check(kind: str, example: Mapping[str, Any] | None = None) -> Callable[[Callable[..., Run]], Callable[..., Run]]:
    """Register a factory of checks under ``kind``, as :func:`register`; its docstring's first line says when the check is met."""

    def add(factory: Callable[..., Run]) -> Callable[..., Run]:
        register(kind, factory, _parameters(factory), (inspect.getdoc(factory) or "").split("\n")[0], example)
        return factory

    return add


def _parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    hints, empty = get_type_hints(function), inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.items()
    return {name: (hints[name], ... if p.default is empty else p.default) for name, p in parameters}


def rule(
    kind: str, example: Mapping[str, Any] | None = None, *, graded: bool = False, least: int | None = None
) -> Callable[[Callable[..., Verdict]], Callable[..., Verdict]]:
    """Register a check written as a function of the response and the check's arguments, none of which may be below ``least``."""

    def add(run: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def factory(**given: Any) -> Run:
            if least is not None:
                _expect_at_least(least, **given)
            return partial(run, **given)

        parameters = _parameters(run)
        del parameters["view"]
        register(kind, factory, parameters, inspect.getdoc(run) or "", example, graded)
        return run

    return add


def several(kind: str, unit: str, count: Count, about: str = "", **example: int) -> None:
    """Register a check that a count lies between its arguments ``min`` (default 1) and ``max`` (default none)."""

    def factory(min: int = 1, max: int | None = None) -> Run:
        return count_between(count, unit, min, max)

    parameters = {"min": (int, 1), "max": (int | None, None)}
    register(kind, factory, parameters, f"From `min` to `max` {unit}{about}.", example)


def none(kind: str, unit: str, count: Count, about: str = "") -> None:
    """Register a check that a count is 0."""
    register(kind, lambda: count_between(count, unit, None, 0), {}, f"No {unit}{about}.")


def verdict(met: bool, reason: str) -> Verdict:
    """Met or not met, with what was measured."""
    return Verdict(Outcome.MET if met else Outcome.NOT_MET, None, reason)


def negated(found: Verdict) -> Verdict:
    """Met where ``found`` is not met and the other way round."""
    other = {Outcome.MET: Outcome.NOT_MET, Outcome.NOT_MET: Outcome.MET}
    return replace(found, outcome=other.get(found.outcome, found.outcome))


def listed(words: Sequence[str], most: int = 5) -> str:
    """Show the first few of a list.

    >>> listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(repr, words[:most]))
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def _expect_at_least(low: int, **arguments: float | None) -> None:
    """Refuse, with ValueError, an argument below ``low``; None passes."""
    for name, value in arguments.items():
        if value is not None and value < low:
            raise ValueError(f"`{name}` must be at least {low}, got {value}")


def count_between(count: Count, unit: str, min: float | None, max: float | None, name: str = "") -> Run:
    """Make a check that a count lies within bounds, both ends included; ``name`` is what the argument of a single bound is called.

    Raises:
        ValueError: if a bound is negative, or they cross.
    """
    _expect_at_least(0, **{name or "min": min})
    _expect_at_least(0, **{name or "max": max})
    if min is not None and max is not None and min > max:
        raise ValueError(f"`min` must be at most `max` ({max}), got {min}")
    if min is None:
        asked = f"at most {max:g} allowed" if max else "none allowed"
    elif max is None:
        asked = f"at least {min:g} asked"
    else:
        asked = f"{min:g} asked" if min == max else f"{min:g} to {max:g} asked"
    low, high = -1.0 if min is None else min, math.inf if max is None else max

    def run(view: ResponseView) -> Verdict:
        found = count(view)
        return verdict(low <= found <= high, f"{found:g} {unit}, {asked}")

    return run


def compile_check(spec: Mapping[str, Any]) -> tuple[CheckKind, Run]:
    """Turn ``{"kind": ..., arguments...}`` into a check; an argument that is None counts as absent.

    Raises:
        ValueError: on an unknown kind (with close matches), an unknown, missing or bad argument.

    >>> compile_check({"kind": "max_word", "words": 60})
    Traceback (most recent call last):
        ...
    ValueError: `kind` must be a known check, got 'max_word' (did you mean 'max_words', 'min_words', 'any_keyword'?)
    """
    name = spec["kind"]
    if name not in CHECKS:
        close = ", ".join(map(repr, difflib.get_close_matches(str(name), CHECKS, n=3)))
        hint = f"did you mean {close}?" if close else f"known: {', '.join(sorted(CHECKS))}"
        raise ValueError(f"`kind` must be a known check, got {name!r} ({hint})")
    kind = CHECKS[name]
    given = {key: value for key, value in spec.items() if key != "kind" and value is not None}
    for key, value in given.items():
        if key not in kind.parameters:
            takes = ", ".join(f"`{parameter}`" for parameter in kind.parameters) or "no arguments"
            raise ValueError(f"check {name!r} takes {takes}, got `{key}`")
        annotation = kind.parameters[key][0]
        if not any(accepts(value) for _, accepts in _types(annotation)):
            raise ValueError(f"`{key}` of check {name!r} must be {described(annotation)}, got {value!r}")
    for key, (annotation, default) in kind.parameters.items():
        if default is ... and key not in given:
            raise ValueError(f"check {name!r} needs `{key}` ({described(annotation)}), got {dict(spec)!r}")
    try:
        return kind, kind.factory(**given)
    except ValueError as error:
        raise ValueError(f"check {name!r}: {error}") from error


_TYPES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value)),
    str: ("a non-empty string", lambda value: isinstance(value, str) and bool(value)),
    # with an empty list or a blank entry, nothing or everything would meet the check
    list: ("a list of non-empty strings", lambda value: isinstance(value, (list, tuple)) and len(value) > 0
           and all(isinstance(entry, str) and entry.strip() for entry in value)),
    dict: ("a mapping", lambda value: isinstance(value, Mapping)),
}  # fmt: skip


def _types(annotation: Any) -> list[tuple[str, Callable[[Any], bool]]]:
    """What an argument may be: in words, and a test of a value."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [_type(option) for option in options if option is not types.NoneType]


def _type(annotation: Any) -> tuple[str, Callable[[Any], bool]]:
    return _TYPES.get(get_origin(annotation) or annotation, (str(annotation), lambda value: isinstance(value, annotation)))


def described(annotation: Any) -> str:
    """Say in words what an argument may be."""
    return " or ".join(words for words, _ in _types(annotation))
