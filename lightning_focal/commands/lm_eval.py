"""``lightning_focal lm-eval``: the harness's own command line, with the model class ``lightning_focal``."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from lightning_focal.evaluation import register

__all__ = ["lm_eval_command"]


def lm_eval_command(args: list[str]) -> None:
    """Run ``lm-eval`` with these arguments.

    The harness looks for no plug-ins, so a model class of another package is known to it only where that package is imported: here,
    or by a task file that names one of our functions (``configs/eval/rubric.yaml``).
    """
    register()
    (program,) = entry_points(group="console_scripts", name="lm-eval")
    argv, sys.argv = sys.argv, ["lm-eval", *(args or ["--help"])]
    try:
        program.load()()
    finally:
        sys.argv = argv
