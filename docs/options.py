"""Write the files of lightning_focal/help: the help of every command, and the arguments of every class, from the parsers.

python docs/options.py
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
from importlib import import_module
from typing import Any
from unittest import mock

from jsonargparse import ArgumentParser, capture_parser

import lightning_focal
from lightning_focal.entry import COMMANDS, RUNS
from lightning_focal.overview import HELP


def parsers() -> dict[str, Any]:
    """The parser of every command, ``fit`` first; the harness has its own."""
    from lightning_focal.cli import FocalCLI
    from lightning_focal.commands.agreement import parser as of_agreement
    from lightning_focal.commands.generate import parser as of_generation
    from lightning_focal.commands.sft import WarmStartCLI

    made = {command: capture_parser(FocalCLI, command) for command in RUNS} | {"sft": capture_parser(WarmStartCLI)}
    others = {name: import_module(module) for name, (module, _) in COMMANDS.items()}
    made |= {name: module.parser() for name, module in others.items() if hasattr(module, "parser")}
    return made | {"judge-agreement": of_agreement(), "rubrics-generate": of_generation()}


def texts() -> dict[str, str]:
    """The help of every command without its example; paragraphs at the end that are those of ``fit`` as a number."""
    with mock.patch.dict(os.environ, COLUMNS="80"):
        found = {name: parser.format_help().rstrip() for name, parser in parsers().items()}
    fit = found["fit"].split("\n\n")
    for name, text in found.items():
        parts = text.split("\n\n")
        pairs = enumerate(zip(reversed(parts), reversed(fit), strict=False))
        same = 0 if name == "fit" else next(count for count, (mine, its) in pairs if mine != its)
        found[name] = "\n\n".join(parts[: len(parts) - same]) + (f"\n@fit {same}" if same else "") + "\n"
    return found


def arguments() -> dict[str, list[str] | None]:
    """Arguments of every class that a package names; None = it takes others, too."""
    names = [f"lightning_focal.{module.name}" for module in pkgutil.iter_modules(lightning_focal.__path__) if module.ispkg]
    found = [getattr(module, name) for module in map(importlib.import_module, names) for name in getattr(module, "__all__", ())]
    return {cls.__name__: _arguments(cls) for cls in sorted(filter(inspect.isclass, found), key=lambda cls: cls.__name__)}


def _arguments(cls: type) -> list[str] | None:
    if dataclasses.is_dataclass(cls):
        return sorted(field.name for field in dataclasses.fields(cls) if field.init)
    makers = [part.__init__ for part in cls.__mro__ if "__init__" in vars(part)]
    for maker in makers:  # the first that hands nothing on ends it
        if not any(p.kind == p.VAR_KEYWORD for p in inspect.signature(maker).parameters.values()):
            break
    else:
        return None
    added = ArgumentParser().add_class_arguments(cls, "x", fail_untyped=False)
    return sorted({key.split(".")[1] for key in added if "." in key})


if __name__ == "__main__":
    HELP.mkdir(exist_ok=True)
    for name, text in texts().items():
        (HELP / f"{name}.txt").write_text(text, encoding="utf-8")
    lines = "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(names)}" for name, names in arguments().items()) + "\n}\n"
    (HELP / "classes.json").write_text(lines, encoding="utf-8")
