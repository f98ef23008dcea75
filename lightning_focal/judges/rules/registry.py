"""The kinds of rule checks: registered by name, their arguments validated before anything is judged."""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from lightning_focal.judges.base import Verdict
from lightning_focal.judges.rules.view import ResponseView

__all__ = ["CHECKS", "CheckKind", "Run", "check", "compile_check"]

Run = Callable[[ResponseView], Verdict]
"""A check whose arguments are settled."""


@dataclass(frozen=True)
class CheckKind:
    """One kind of check.

    Args:
        kind: its name in ``{"kind": ...}``.
        factory: takes the arguments, refuses bad ones with ValueError, and returns the check itself.
        parameters: name, annotation and default of each argument.
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

_REQUIRED = inspect.Parameter.empty


def check(
    kind: str, example: Mapping[str, Any] | None = None, graded: bool = False
) -> Callable[[Callable[..., Run]], Callable[..., Run]]:
    """Register a factory of checks under ``kind``; its docstring's first line says when the check is met.

    Args:
        kind: name, not yet taken.
        example: arguments of an example, shown in the table of kinds.
        graded: see :class:`CheckKind`.

    Raises:
        ValueError: if ``kind`` is taken.
    """

    def add(factory: Callable[..., Run]) -> Callable[..., Run]:
        if kind in CHECKS:
            raise ValueError(f"`kind` must be a new name, got {kind!r}, which {CHECKS[kind].factory.__module__} has registered")
        hints = get_type_hints(factory)
        parameters = {name: (hints[name], p.default) for name, p in inspect.signature(factory).parameters.items()}
        summary = inspect.getdoc(factory) or ""
        CHECKS[kind] = CheckKind(kind, factory, parameters, summary.split("\n")[0], {"kind": kind, **(example or {})}, graded)
        return factory

    return add


def compile_check(spec: Mapping[str, Any]) -> tuple[CheckKind, Run]:
    """Turn ``{"kind": ..., arguments...}`` into a check, arguments validated; an argument that is None counts as absent.

    Raises:
        ValueError: on an unknown kind (with close matches), an unknown, missing or ill-typed argument, a pattern that does not
            compile, a schema that is none.

    >>> compile_check({"kind": "max_word", "words": 60})
    Traceback (most recent call last):
        ...
    ValueError: `kind` must be a known check, got 'max_word' (did you mean 'max_words', 'min_words', 'any_keyword'?)
    """
    name = spec["kind"]
    if name not in CHECKS:
        close = ", ".join(map(repr, difflib.get_close_matches(str(name), CHECKS, n=3)))
        raise ValueError(f"`kind` must be a known check, got {name!r} ({f'did you mean {close}?' if close else _known()})")
    kind = CHECKS[name]
    given = {key: value for key, value in spec.items() if key != "kind" and value is not None}
    for key, value in given.items():
        if key not in kind.parameters:
            takes = ", ".join(f"`{parameter}`" for parameter in kind.parameters) or "no arguments"
            raise ValueError(f"check {name!r} takes {takes}, got `{key}`")
        annotation = kind.parameters[key][0]
        if not _accepts(annotation, value):
            raise ValueError(f"`{key}` of check {name!r} must be {describe(annotation)}, got {value!r}")
    for key, (annotation, default) in kind.parameters.items():
        if default is _REQUIRED and key not in given:
            raise ValueError(f"check {name!r} needs `{key}` ({describe(annotation)}), got {dict(spec)!r}")
    try:
        return kind, kind.factory(**given)
    except ValueError as error:
        raise ValueError(f"check {name!r}: {error}") from error


def _known() -> str:
    return f"known: {', '.join(sorted(CHECKS))}"


def _accepts(annotation: Any, value: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_accepts(option, value) for option in get_args(annotation))
    if origin is list:
        # words, phrases: an empty list or a blank entry would make a check that nothing or everything meets
        return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)
    if origin is dict:
        return isinstance(value, Mapping)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str) and bool(value)
    return isinstance(value, annotation)


def describe(annotation: Any) -> str:
    """Say in words what an argument takes.

    >>> describe(int | None), describe(str | list[str])
    ('a whole number', 'a non-empty string or a list of non-empty strings')
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(annotation) if option is not types.NoneType)
    if origin in (list, dict):
        return "a list of non-empty strings" if origin is list else "a mapping"
    words = {int: "a whole number", float: "a finite number", str: "a non-empty string", bool: "true or false"}
    return words.get(annotation, str(annotation))
