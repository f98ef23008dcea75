"""Generators by a short name, for those who want them as they come."""

from __future__ import annotations

from typing import Literal

from lightning_focal.generation.base import Generator
from lightning_focal.generation.hf import HFGenerator
from lightning_focal.generation.vllm import VLLMGenerator
from lightning_focal.generation.vllm_server import VLLMServerGenerator

__all__ = ["GeneratorName", "named_generator"]

GeneratorName = Literal["hf", "vllm", "vllm_server"]
"""transformers in this process, vLLM in this process, a vLLM server at ``http://localhost:8000``."""


def named_generator(generator: Generator | GeneratorName | None) -> Generator:
    """Return a generator as it is, the one of a name with its defaults, or :class:`HFGenerator` for None.

    Raises:
        ValueError: for a name that there is not.

    >>> named_generator("vllm").sleeps
    False
    """
    if generator is None or isinstance(generator, Generator):
        return generator or HFGenerator()
    known: dict[str, type[Generator]] = {"hf": HFGenerator, "vllm": VLLMGenerator, "vllm_server": VLLMServerGenerator}
    if generator not in known:
        raise ValueError(f"`generator` must be a Generator or one of {', '.join(known)}, got {generator!r}")
    return known[generator]()
