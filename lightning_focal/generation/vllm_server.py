"""Rollouts by vLLM servers beside the trainer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from lightning_focal.generation.base import Sampling
from lightning_focal.generation.vllm_http import VLLMServer
from lightning_focal.generation.vllm_requests import Answer, VLLMBase, expect_comparable
from lightning_focal.models.export import whole_folder, write_weights
from lightning_focal.models.shard import on_first_rank, rank
from lightning_focal.models.weights import bare_model
from lightning_focal.precision import expect_dtype

__all__ = ["VLLMServerGenerator"]

_THREADS = 64
_T = TypeVar("_T")


class VLLMServerGenerator(VLLMBase):
    """Decodes on one or several vLLM servers (arXiv:2309.06180), each started on its own with the policy's model.

    Prompts are dealt out to the servers in turn, each with its whole group. After every update the first process writes the
    weights (safetensors, adapters merged, shards gathered, a folder that is there is whole). Every server reads them and empties its
    prefix cache. Servers attach the name of a sync to each answer. One that was written with other weights, by a server that was
    restarted or that another trainer writes to, is an error.

    Seeds and log-probabilities are as with :class:`VLLMGenerator`. Which requests meet in a batch is up to the servers, so that
    rounding may differ from run to run.

    Args:
        addresses: of the servers, such as ``http://localhost:8000``.
        folder: where weights are written to, one folder a sync, the last one kept; trainer and servers must both see it under this
            path. None = a new one under the system's temporary folder, for servers on this machine that run as this user.
        dtype: of the written weights, ``"bfloat16"``, ``"float16"`` or ``"float32"``; None = the policy's. The servers' own is
            what they were started with.
        key_env: name of the environment variable that holds the servers' ``--api-key``; None = they want none.
        timeout_s: seconds for one try of a request.
        attempts: times a request is tried.

    Raises:
        ValueError: on a value out of range.
    """

    tells_finished: ClassVar[bool] = True

    def __init__(
        self,
        addresses: str | list[str] = "http://localhost:8000",
        folder: str | None = None,
        dtype: str | None = None,
        key_env: str | None = None,
        timeout_s: float = 600.0,
        attempts: int = 4,
    ) -> None:
        super().__init__()
        urls = [addresses] if isinstance(addresses, str) else list(addresses)
        if not urls or len(set(urls)) != len(urls):
            raise ValueError(f"`addresses` must name one server or more, each once, got {urls}")
        expect_dtype("dtype", dtype, auto=False)  # the servers' device is not known here
        if not timeout_s > 0 or attempts < 1:
            raise ValueError(f"`timeout_s` must be > 0 and `attempts` >= 1, got {timeout_s} and {attempts}")
        self.servers = [VLLMServer(url, key_env, timeout_s, attempts) for url in urls]
        self.engines, self.folder, self.dtype = len(urls), folder, dtype
        self._limits: tuple[int, str] | None = None
        self._written: Path | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def start(self, sampling: Sampling, needs_logp: bool = False) -> None:
        """Find out whether the servers are there and can do what is needed.

        Raises:
            ServerError: naming the first address that cannot, and how to start it.
            ValueError: if servers report different log-probabilities, or others than are needed.
        """
        _, mode = self._limits = self._check()
        if needs_logp:
            expect_comparable(sampling, mode)

    def sync(self, policy: nn.Module, version: int) -> None:
        """Bring the weights to the servers; a collective: every process calls it.

        Raises:
            ServerError: if a server does not take them; RuntimeError on the other processes.
            TypeError: for adapters that cannot be merged.
            ValueError: for a server on a CPU and a policy whose output layer is its embedding: vLLM would keep the old one.
        """
        self.version, self._limits = version, self._limits or self._check()
        self._renew(policy)

    def close(self) -> None:
        """Remove the weights that were written; servers keep what they read."""
        if self._written is not None:
            shutil.rmtree(self._written, ignore_errors=True)
        if self._temporary is not None:
            self._temporary.cleanup()
        self._written = self._temporary = self._held = None

    def _connect(self, policy: nn.Module, tokenizer: Any, sampling: Sampling) -> tuple[int, str]:
        self._limits = self._limits or self._check()
        return self._limits

    def _check(self) -> tuple[int, str]:
        found = self._everywhere(lambda server: server.check())
        modes = {server.url: mode for server, (_, mode) in zip(self.servers, found, strict=True)}
        if len(set(modes.values())) > 1:
            raise ValueError(f"`addresses`: servers must agree on --logprobs-mode, got {modes}")
        return min(context for context, _ in found), found[0][1]

    def _hand_over(self, policy: nn.Module, label: str) -> str:
        # On a CPU vLLM multiplies by packed copies of weights and does not renew that of an output layer which is the embedding.
        on_cpu = [server.url for server in self.servers if server.on_cpu]
        if on_cpu and bare_model(policy).config.get_text_config().tie_word_embeddings:
            raise ValueError(
                f"`addresses`: {on_cpu[0]} runs on a CPU and would keep the old output layer of a policy that ties it to its "
                "embedding; use `model.generator: vllm`, in this process, or a server with a GPU"
            )
        first, dtype = rank() == 0, None if self.dtype is None else getattr(torch, self.dtype)
        if first and self.folder is None and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="lightning_focal_vllm_")
        place = Path(self.folder or (self._temporary.name if self._temporary else "")).absolute()
        target, failure = place / f"weights-{label.replace('/', '-')}", None
        try:
            with whole_folder(target) if first else nullcontext(target) as beside:
                write_weights(policy, beside, write=first, dtype=dtype)
        except OSError as error:
            failure = error  # raised below, where the other processes hear of it

        def reload() -> str:
            if failure is not None:
                raise failure
            self._everywhere(lambda server: server.reload(str(target), label))
            if self._written is not None:
                shutil.rmtree(self._written, ignore_errors=True)
            self._written = target
            return label

        return on_first_rank(reload)

    def _arithmetic(self) -> tuple[torch.dtype, str | None]:
        configs = [server.model_config for server in self.servers]
        exact = all(config.get("dtype") == "torch.float32" for config in configs)
        quantised = (config.get("quantization") for config in configs)
        return torch.float32 if exact else torch.bfloat16, next(filter(None, quantised), None)

    def _ask(
        self,
        rows: Sequence[Sequence[int]],
        params: Sequence[dict[str, Any]],
        answered: Callable[[int, list[Answer]], None] | None = None,
    ) -> list[tuple[str, list[Answer]]]:
        first = rank()
        dealt = [self.servers[(first + row) % len(self.servers)] for row in range(len(rows))]
        with ThreadPoolExecutor(max(1, min(len(rows), _THREADS))) as threads:
            asked = {
                threads.submit(server.generate, tokens, wanted): row
                for row, (server, tokens, wanted) in enumerate(zip(dealt, rows, params, strict=True))
            }
            try:
                for one in as_completed(asked):
                    if answered is not None:
                        answered(asked[one], one.result())
                return [(server.url, one.result()) for server, one in zip(dealt, asked, strict=True)]
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _everywhere(self, do: Callable[[VLLMServer], _T]) -> list[_T]:
        with ThreadPoolExecutor(len(self.servers)) as threads:
            return list(threads.map(do, self.servers))
