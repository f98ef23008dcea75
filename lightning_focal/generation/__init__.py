"""Generation: who writes the rollouts."""

from __future__ import annotations

from lightning_focal.generation.assemble import make_rollouts
from lightning_focal.generation.base import Finished, Generator, Sampling
from lightning_focal.generation.hf import HFGenerator
from lightning_focal.generation.names import GeneratorName, named_generator
from lightning_focal.generation.scripted import ScriptedGenerator
from lightning_focal.generation.vllm import VLLMGenerator
from lightning_focal.generation.vllm_server import VLLMServerGenerator
from lightning_focal.models.weights import full_weights

__all__ = [
    "Finished",
    "Generator",
    "GeneratorName",
    "HFGenerator",
    "Sampling",
    "ScriptedGenerator",
    "VLLMGenerator",
    "VLLMServerGenerator",
    "full_weights",
    "make_rollouts",
    "named_generator",
]
