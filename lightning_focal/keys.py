"""Names under which criteria are kept and logged."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["level_key", "log_key"]


def level_key(name: str, tags: Sequence[str]) -> str:
    """Name under which a criterion's level is kept: its axis, or its own name when it has none.

    Criteria of per-prompt rubrics never recur, their axis does (ours; HealthBench tags read ``axis:accuracy``).

    >>> level_key("at most 40 words", ["level:example", "axis:brevity"])
    'brevity'
    >>> level_key("polite", [])
    'polite'
    """
    return _tagged("axis:", tags) or name


def log_key(name: str, tags: Sequence[str]) -> str:
    r"""Name under which a criterion is logged: its axis, or the pool of names that hardly recur, or its own name; no line breaks in it.

    >>> log_key("polite\n", []), log_key("names-the-dose", ["pool:rar-untagged"])
    ('polite\\n', 'rar-untagged')
    """
    key = _tagged("axis:", tags) or _tagged("pool:", tags) or name
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: repr(found[0])[1:-1], key)


def _tagged(kind: str, tags: Sequence[str]) -> str:
    return next((value for tag in tags if tag.startswith(kind) and (value := tag.removeprefix(kind))), "")
