"""Arguments that are one of a few words."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["WEIGHT_DTYPES", "expect_choice"]

WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "auto")
"""Precisions in which a model can be loaded; ``auto`` = as it is stored."""


def expect_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Refuse a value that is none of those allowed.

    Args:
        name: of the argument, for a config with the key's path.
        value: what came.
        allowed: at least one; None among them reads as ``null``.

    Raises:
        ValueError: naming the argument, what is allowed and what came.

    >>> expect_choice("scale", "std", ("group", "none", "batch"))
    Traceback (most recent call last):
        ...
    ValueError: `scale` must be 'group', 'none' or 'batch', got 'std'
    """
    choices = tuple(allowed)
    if value not in choices:
        *first, last = ("null" if choice is None else repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be {', '.join(first)}{' or ' if first else ''}{last}, got {value!r}")
