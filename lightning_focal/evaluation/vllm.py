"""vLLM as a model of lm-evaluation-harness."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["vllm_lm"]


def vllm_lm(folder: str | Path, *, dtype: str | None = None, max_length: int | None = None, **arguments: Any) -> Any:
    """Build the harness's vLLM model over an exported folder.

    Args:
        folder: weights, tokenizer, chat template.
        dtype: as stored by default.
        max_length: context in tokens; the model's own by default.
        arguments: of vLLM's engine.

    Raises:
        ModuleNotFoundError: without vLLM.
    """
    if find_spec("vllm") is None:
        raise ModuleNotFoundError(
            "`--backend vllm` needs vLLM, in an environment of its own: pip install 'lightning-focal[eval,vllm]'"
        )
    with _version_of_vllm():
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(pretrained=str(folder), dtype=dtype or "auto", max_length=max_length, batch_size="auto", **arguments)


@contextmanager
def _version_of_vllm() -> Iterator[None]:
    """Within the context ``vllm`` has a version also where it was installed under another name, as its CPU build is.

    The harness asks for it when it is imported.
    """
    asked = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return asked(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            import vllm

            return str(vllm.__version__)

    importlib.metadata.version = version
    try:
        yield
    finally:
        importlib.metadata.version = asked
