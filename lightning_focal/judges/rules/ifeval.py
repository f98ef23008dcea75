"""The instructions of IFEval and IFBench, checked by the package ``if-verifiable``."""

from __future__ import annotations

import importlib
from typing import Any

from lightning_focal.judges.base import Verdict
from lightning_focal.judges.rules.registry import Run, check
from lightning_focal.judges.rules.verdicts import verdict
from lightning_focal.judges.rules.view import ResponseView

__all__: list[str] = []


def _instructions(benchmark: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(f"if_verifiable.{benchmark}.instructions_registry")
    except ImportError as error:
        message = f"`instruction` needs the package if-verifiable: pip install 'lightning-focal[ifeval]' ({error})"
        raise ValueError(message) from error
    return dict(module.INSTRUCTION_DICT)


def _checker_class(instruction: str) -> Any:
    known = _instructions("ifeval")
    if instruction not in known:
        known = known | _instructions("ifbench")
    if instruction not in known:
        raise ValueError(f"`instruction` must be one of IFEval or IFBench ({', '.join(sorted(known))}), got {instruction!r}")
    return known[instruction]


@check("ifeval", {"instruction": "keywords:existence", "arguments": {"keywords": ["tea", "milk"]}})
def ifeval(instruction: str, arguments: dict[str, Any] | None = None, loose: bool = False) -> Run:
    """The instruction of IFEval or IFBench is followed (`loose`: by one of the benchmark's eight variants of the response).

    An argument left out would be drawn at random by the package, so that two runs would judge differently: it is refused.
    """
    checker_class, given = _checker_class(instruction), dict(arguments or {})
    variants = importlib.import_module("if_verifiable.common").get_loose_transformations
    importlib.import_module("langdetect").DetectorFactory.seed = 0  # its guesses vary from run to run otherwise

    missing = sorted(set(checker_class(instruction).get_instruction_args_keys()) - given.keys())
    if missing:
        raise ValueError(f"`arguments` of {instruction} must hold {', '.join(missing)}, got {given!r}")
    checker = checker_class(instruction)
    try:
        checker.build_description(**given)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"`arguments` must fit {instruction}, got {given!r} ({error})") from error

    def run(view: ResponseView) -> Verdict:
        texts = variants(view.text) if loose else [view.text]
        met = any(text.strip() and checker.check_following(text) for text in texts)
        return verdict(met, f"{instruction} {'followed' if met else 'not followed'}")

    return run
