"""lm-evaluation-harness as a package: asked for where it is needed, kept quiet where nobody is watching."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

__all__ = ["expect_lm_eval", "hushed"]


def expect_lm_eval() -> None:
    """Say which extra brings lm-evaluation-harness, where it is not installed.

    Raises:
        ModuleNotFoundError: if it is not.
    """
    if find_spec("lm_eval") is None:
        raise ModuleNotFoundError("evaluation needs lm-evaluation-harness: pip install 'lightning-focal[eval]'")


@contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Within the context the harness writes no bars and warns of errors alone, and it bootstraps in this process.

    Args:
        quiet: False = leave it as it is.
    """
    if not quiet:
        yield
        return
    import datasets
    from lm_eval.api import task as contexts

    module: Any = contexts
    logger, bar, level = logging.getLogger("lm_eval"), module.tqdm, logging.getLogger("lm_eval").level
    bars, forked = datasets.are_progress_bars_disabled(), os.environ.get("DISABLE_MULTIPROC")
    module.tqdm = lambda things, **_: things
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    os.environ["DISABLE_MULTIPROC"] = "1"  # its bootstrap would fork a process that holds a GPU
    try:
        yield
    finally:
        module.tqdm = bar
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
        if forked is None:
            os.environ.pop("DISABLE_MULTIPROC", None)
        else:
            os.environ["DISABLE_MULTIPROC"] = forked
