"""Judging by rule: a registry of checks, and the judge that runs them."""

from lightning_focal.judges.rules import form, programs, style, text  # noqa: F401 - they register
from lightning_focal.judges.rules.judge import RuleJudge
from lightning_focal.judges.rules.registry import CHECKS, CheckKind, Run, check, compile_check
from lightning_focal.judges.rules.view import ResponseView

__all__ = ["CHECKS", "CheckKind", "ResponseView", "RuleJudge", "Run", "check", "compile_check"]
