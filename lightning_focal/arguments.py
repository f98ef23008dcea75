"""What an object was made from, as a configuration says it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import lightning_focal

__all__ = ["described", "given_arguments", "lasting"]


def given_arguments(made: object) -> dict[str, Any]:
    """Return the arguments of the constructor that is under way, by name; called in the ``__init__`` of a base class.

    Args:
        made: the object under construction.

    >>> class Base:
    ...     def __init__(self):
    ...         self.arguments = given_arguments(self)
    >>> class Named(Base):
    ...     def __init__(self, name, **more):
    ...         super().__init__()
    >>> Named("a", size=2).arguments
    {'name': 'a', 'size': 2}
    """
    frame, found = inspect.currentframe(), dict[str, Any]()
    own = type(made).__init__.__code__
    while frame is not None and frame.f_code is not own:
        frame = frame.f_back
    if frame is not None:
        for name, kind in list(inspect.signature(type(made).__init__).parameters.items())[1:]:
            value = frame.f_locals[name]
            found |= value if kind.kind is kind.VAR_KEYWORD else {name: value}
    return found


def described(value: Any, name: str = "", untold: list[str] | None = None) -> Any:
    """Return a value as a configuration holds it: numbers and text, lists, mappings, and classes with their arguments.

    Args:
        value: plain, a dataclass, a ``functools.partial`` of a class, or an object whose arguments are in ``arguments`` or in attributes
            of the same names.
        name: the key it stands under.
        untold: the keys of values that no configuration can hold are added; these are left out.

    >>> described({"lr": 0.1, "make": functools.partial(Path, "a")}, "model", untold := []), untold
    ({'lr': 0.1}, ['model.make'])
    """
    untold = [] if untold is None else untold
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return _mapping(value, name, untold)
    if isinstance(value, (list, tuple)):
        return [made for i, each in enumerate(value) if (made := described(each, f"{name}[{i}]", untold)) is not None]
    if is_dataclass(value) and not isinstance(value, type):
        return _mapping({field.name: getattr(value, field.name) for field in fields(value) if field.init}, name, untold)
    if isinstance(value, functools.partial):
        kind: Any = value.func
        arguments: Mapping[str, Any] | None = None if value.args else value.keywords
    else:
        kind, arguments = type(value), _arguments(value)
    if arguments is None or not isinstance(kind, type) or kind.__module__ in ("__main__", "builtins") or "<" in kind.__qualname__:
        untold.append(name)
        return None
    return {"class_path": _class_path(kind), "init_args": _mapping(arguments, name, untold)}


def _class_path(kind: type) -> str:
    """Where a class is found: in the package that shows it, as a person would write it, or in its own module."""
    parts = kind.__module__.split(".")
    for length in range(2, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), kind.__qualname__, None) is kind:
            return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _mapping(values: Mapping[Any, Any], name: str, untold: list[str]) -> dict[Any, Any]:
    made = {key: described(each, f"{name}.{key}".lstrip("."), untold) for key, each in values.items()}
    return {key: each for key, each in made.items() if each is not None or values[key] is None}


def _arguments(value: object) -> Mapping[str, Any] | None:
    known: Any = getattr(value, "arguments", None)
    if isinstance(known, Mapping):
        return known
    try:
        names = list(inspect.signature(type(value)).parameters)
    except (TypeError, ValueError):
        return None
    return {name: getattr(value, name) for name in names} if all(hasattr(value, name) for name in names) else None


def lasting(value: Any) -> Any:
    """Return a configuration that means the same from every folder and in every release of this package.

    Files that are there as seen from this folder become absolute; a word that also is the name of a file, without a suffix or a folder in
    it, is left alone. Classes that the package itself shows are called after the module they are documented in.

    >>> lasting({"train": "no/such.jsonl", "scope": "group", "class_path": "lightning_focal.FocalReward"})
    {'train': 'no/such.jsonl', 'scope': 'group', 'class_path': 'lightning_focal.rewards.FocalReward'}
    """
    if isinstance(value, Mapping):
        return {key: lasting(each) for key, each in value.items()}
    if isinstance(value, list):
        return [lasting(each) for each in value]
    if not isinstance(value, str):
        return value
    package, _, name = value.partition(".")
    if package == lightning_focal.__name__ and name in lightning_focal.__all__:
        return _class_path(getattr(lightning_focal, name))
    if 0 < len(value) < 4096 and "\0" not in value and (os.sep in value or "." in value.strip(".")):
        return os.path.abspath(value) if os.path.exists(value) else value
    return value
