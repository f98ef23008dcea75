"""Write the tables of arguments in docs/reference/cli.md from the code.

    python docs/tables.py [FILE]

A table stands between ``<!-- arguments: CLASS, at KEY -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

from docstring_parser import parse

PAGE = Path(__file__).parent / "reference" / "cli.md"
_BLOCK = re.compile(r"(<!-- arguments: (?P<target>[\w.]+), at (?P<key>[\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROLE = re.compile(r":[a-z]+:`~?(?:[\w.]+\.)?(\w+)`")


def arguments(target: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each argument of a class given by its import path."""
    module, name = target.rsplit(".", 1)
    cls = getattr(import_module(module), name)
    docs = [inspect.cleandoc(vars(part).get("__doc__") or "") for part in reversed(cls.__mro__)]  # an argument may be inherited
    said = {parameter.arg_name: parameter.description or "" for doc in docs for parameter in parse(doc).params}
    rows = []
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name not in said:
            raise ValueError(f"{target}: argument {parameter.name!r} is not documented")
        rows.append((parameter.name, _default(parameter.default), _markdown(said[parameter.name])))
    return rows


def _default(value: object) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[value]
    if type(value).__module__ == "builtins":
        return f"`{value}`"
    return f"`{type(value).__name__}()`"


def _markdown(text: str) -> str:
    text = _ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")
    return text.replace("|", "\\|")


def table(target: str, key: str) -> str:
    """The table of one class, its arguments spelt as keys of a config."""
    lines = ["| key | default | |", "|---|---|---|"]
    lines += [f"| `{key}.{name}` | {default} | {meaning} |" for name, default, meaning in arguments(target)]
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """The page with every table as the code has it."""
    return _BLOCK.sub(lambda found: found[1] + table(found["target"], found["key"]) + found[4], page)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
