"""The table of check kinds, as the documentation shows it."""

from __future__ import annotations

import inspect
import json

from lightning_focal.judges.rules.registry import CHECKS, describe

__all__ = ["check_table"]


def check_table() -> str:
    """Write the registered check kinds as a markdown table: kind, arguments, an example, when it is met.

    >>> print(check_table().splitlines()[0])
    | kind | arguments | example | met when |
    """
    rows = ["| kind | arguments | example | met when |", "|---|---|---|---|"]
    for name, kind in CHECKS.items():
        arguments = []
        for argument, (annotation, default) in kind.parameters.items():
            given = "required" if default is inspect.Parameter.empty else f"default {json.dumps(default)}"
            arguments.append(f"`{argument}`: {describe(annotation)}, {given}")
        example = json.dumps(kind.example).replace("|", "\\|")
        rows.append(f"| `{name}` | {'; '.join(arguments)} | `{example}` | {kind.summary} |")
    return "\n".join(rows)
