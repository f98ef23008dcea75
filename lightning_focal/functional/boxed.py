r"""The answer a response puts into ``\boxed{...}``."""

from __future__ import annotations

import re

__all__ = ["extract_boxed"]

_OPENING = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}``, braces matched (arXiv:2508.00410).

    A brace after a backslash is a printed one and closes nothing. A last box that is never closed is an answer that was cut off:
    it gives None, not the box before it. White space may stand before the brace, as TeX allows; ``\boxed 5`` and ``\fbox{5}`` are
    not read. Takes time linear in the length of the text.

    Args:
        text: a response.

    Returns:
        The content as it stands, maybe empty, or None where there is no closed last box.

    >>> extract_boxed(r"First \boxed{1}, no: $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> extract_boxed(r"\boxed{\left\{ 3 \right.}")
    '\\left\\{ 3 \\right.'
    >>> extract_boxed(r"\boxed{1} or \boxed{2") is None
    True
    """
    opening, end = None, len(text)
    while opening is None:
        end = text.rfind("\\boxed", 0, end)
        if end == -1:
            return None
        opening = _OPENING.match(text, end)
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[opening.end() : brace.start()]
    return None
