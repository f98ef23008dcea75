"""Progress bars of transformers, switched off where they say nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_bars"]


@contextmanager
def no_bars(on_terminals: bool = True) -> Iterator[None]:
    """Within the context weights are read, converted and written without progress bars.

    Args:
        on_terminals: also where a person may be watching; otherwise only where output goes to a file.
    """
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as bars

    if sys.stderr.isatty() and not on_terminals:
        yield
        return
    tqdm, shown = gguf.tqdm, bars.is_progress_bar_enabled()
    gguf.tqdm = lambda things, **_: things  # this one heeds no setting
    bars.disable_progress_bar()
    try:
        yield
    finally:
        gguf.tqdm = tqdm
        if shown:
            bars.enable_progress_bar()
