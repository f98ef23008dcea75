"""Rollouts by vLLM servers beside the trainer."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lightning_focal.generation.assemble import check_request, eos_ids
from lightning_focal.generation.base import Generator, Sampling
from lightning_focal.generation.ranks import on_first_rank, rank
from lightning_focal.generation.vllm_http import VLLMServer
from lightning_focal.generation.vllm_requests import LogprobsMode, assemble, expect_comparable, expect_context, sampling_params
from lightning_focal.generation.vllm_transfer import Transfer
from lightning_focal.models.folder import whole_folder, write_weights
from lightning_focal.models.weights import bare_model, is_held, stamp
from lightning_focal.precision import expect_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lightning_focal.types import Prompts, Rollouts

__all__ = ["VLLMServerGenerator"]

_THREADS = 64


class VLLMServerGenerator(Generator):
    """Decodes on one or several vLLM servers (arXiv:2309.06180), each started on its own with the policy's model.

    Prompts are dealt out to the servers in turn, each with its whole group. After every update the first process writes the
    weights (safetensors, adapters merged, shards gathered, a folder that is there is whole) and lets every server read them; the
    servers' prefix caches are emptied. Every sync has a name of its own, which servers attach to each answer: one that was
    written with other weights, by a server that was restarted or that another trainer writes to, is an error.

    Seeds and log-probabilities are as with :class:`VLLMGenerator`; which requests meet in a batch is up to the servers, so that
    rounding may differ from run to run.

    Args:
        addresses: of the servers, such as ``http://localhost:8000``.
        folder: where weights are written to, one folder a sync, the last one kept; trainer and servers must both see it under this
            path. None = a new one under the system's temporary folder, for servers on this machine that run as this user.
        dtype: of the written weights, ``"bfloat16"``, ``"float16"`` or ``"float32"``; None = the policy's. The servers' own is
            what they were started with.
        transfer: ``folder``, or ``nccl``: from GPU to GPU by vLLM's weight transfer; needs vLLM in the trainer's environment, and
            servers started with ``--weight-transfer-config '{"backend": "nccl"}'``.
        key_env: name of the environment variable that holds the servers' ``--api-key``; None = they want none.
        timeout_s: seconds for one try of a request.
        attempts: times a request is tried.

    Raises:
        ValueError: on a value out of range.
    """

    def __init__(
        self,
        addresses: str | list[str] = "http://localhost:8000",
        folder: str | None = None,
        dtype: str | None = None,
        transfer: Literal["folder", "nccl"] = "folder",
        key_env: str | None = None,
        timeout_s: float = 600.0,
        attempts: int = 4,
    ) -> None:
        urls = [addresses] if isinstance(addresses, str) else list(addresses)
        if not urls or len(set(urls)) != len(urls):
            raise ValueError(f"`addresses` must name one server or more, each once, got {urls}")
        expect_dtype("dtype", dtype, auto=False)  # the servers' device is not known here
        if transfer not in ("folder", "nccl"):
            raise ValueError(f"`transfer` must be 'folder' or 'nccl', got {transfer!r}")
        if not timeout_s > 0 or attempts < 1:
            raise ValueError(f"`timeout_s` must be > 0 and `attempts` >= 1, got {timeout_s} and {attempts}")
        self.servers = [VLLMServer(url, key_env, timeout_s, attempts) for url in urls]
        self.folder, self.dtype, self.transfer = folder, dtype, transfer
        self.version = 0
        self._label = ""
        self._run, self._syncs = uuid.uuid4().hex[:8], itertools.count()
        self._limits: tuple[int, LogprobsMode] | None = None
        self._held: tuple[nn.Module, int] | None = None  # whose weights the servers have, and their stamp
        self._written: Path | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._transfer: Transfer | None = None

    def start(self, sampling: Sampling, needs_logp: bool = False) -> None:
        """Find out whether the servers are there and can do what is needed.

        Raises:
            ServerError: naming the first address that cannot, and how to start it.
            ValueError: if servers report different log-probabilities, or others than are needed.
        """
        found = self._everywhere(lambda server: server.check())
        modes = {server.url: mode for server, (_, mode) in zip(self.servers, found, strict=True)}
        if len(set(modes.values())) > 1:
            raise ValueError(f"`addresses`: servers must agree on --logprobs-mode, got {modes}")
        self._limits = (min(context for context, _ in found), found[0][1])
        if needs_logp:
            expect_comparable(sampling, found[0][1])

    def sync(self, policy: nn.Module, version: int) -> None:
        """Bring the weights to the servers; a collective: every process calls it.

        Raises:
            ServerError: if a server does not take them; RuntimeError on the other processes.
            TypeError: for adapters that cannot be merged.
            ValueError: for a server on a CPU and a policy whose output layer is its embedding: vLLM would keep the old one.
        """
        self._expect_renewable(policy)
        self._held, self.version = None, version
        if self.transfer == "nccl":
            self._label = on_first_rank(self._new_label)
            if self._transfer is None or not self._transfer.fits(policy):
                self._transfer = Transfer(policy, self.servers, self.dtype)
            on_first_rank(lambda: self._everywhere(lambda server: server.name(f"loading {self._label}")))
            self._transfer.send()
            on_first_rank(lambda: self._everywhere(lambda server: server.settle(self._label)))
        else:
            target = self._target() if rank() == 0 else None
            failure = self._write(policy, target)
            self._label = on_first_rank(lambda: self._reload(target, failure))
        self._held = (policy, stamp(policy))

    def generate(
        self,
        policy: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Prompts,
        *,
        group_size: int,
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> Rollouts:
        """See :meth:`Generator.generate`.

        Raises:
            ValueError: on prompts without tokens, too few seeds, or a prompt too long for the servers' context.
            ServerError: if a server does not answer.
            RuntimeError: if the policy was changed after the last :meth:`sync`, or an answer was written with other weights.
        """
        check_request(prompts, group_size, seeds)
        if self._limits is None:
            self.start(sampling)
        if not is_held(self._held, policy, self.version):
            self.sync(policy, self.version)
        context, mode = self._limits or (0, "raw_logprobs")
        expect_context(prompts, sampling, context)
        eos, first = eos_ids(bare_model(policy), tokenizer), rank()

        dealt = [self.servers[(first + row) % len(self.servers)] for row in range(len(prompts))]

        def ask(row: int) -> Any:
            return dealt[row].generate(prompts.tokens[row], sampling_params(sampling, seed=seeds[row], count=group_size, eos=eos))

        with ThreadPoolExecutor(max(1, min(len(prompts), _THREADS))) as threads:
            answers = list(threads.map(ask, range(len(prompts))))
        return assemble(
            answers,
            prompts,
            tokenizer,
            group_size=group_size,
            sampling=sampling,
            mode=mode,
            eos=eos,
            device=next(policy.parameters()).device,
            version=self.version,
            label=self._label,
            sources=[server.url for server in dealt],
        )

    def close(self) -> None:
        """Remove the weights that were written; servers keep what they read."""
        if self._written is not None:
            shutil.rmtree(self._written, ignore_errors=True)
        if self._temporary is not None:
            self._temporary.cleanup()
        if self._transfer is not None:
            self._transfer.close()
        self._written = self._temporary = self._held = self._transfer = None

    def _expect_renewable(self, policy: nn.Module) -> None:
        """On a CPU vLLM multiplies by packed copies of weights and does not renew that of a tied output layer."""
        on_cpu = [server.url for server in self.servers if server.on_cpu]
        if on_cpu and bare_model(policy).config.get_text_config().tie_word_embeddings:
            raise ValueError(
                f"`addresses`: {on_cpu[0]} runs on a CPU and would keep the old output layer of a policy that ties it to its "
                "embedding; use `model.generator: vllm`, in this process, or a server with a GPU"
            )

    def _new_label(self) -> str:
        return f"{self._run}/{next(self._syncs)}/{self.version}"

    def _target(self) -> Path:
        if self.folder is None and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="lightning_focal_vllm_")
        place = Path(self.folder or str(self._temporary and self._temporary.name)).absolute()
        self._label = self._new_label()
        return place / f"weights-{self._label.replace('/', '-')}"

    def _write(self, policy: nn.Module, target: Path | None) -> OSError | None:
        """Write where there is a target, help gathering elsewhere; an error is returned, for all processes to hear of."""
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        if target is None:
            write_weights(policy, Path(), write=False, dtype=dtype)
            return None
        try:
            with whole_folder(target) as beside:
                write_weights(policy, beside, dtype=dtype)
        except OSError as error:
            return error
        return None

    def _reload(self, target: Path | None, failure: OSError | None) -> str:
        if failure is not None:
            raise failure
        self._everywhere(lambda server: server.reload(str(target), self._label))
        if self._written is not None:
            shutil.rmtree(self._written, ignore_errors=True)
        self._written = target
        return self._label

    def _everywhere(self, do: Callable[[VLLMServer], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.servers)) as threads:
            return list(threads.map(do, self.servers))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": None, "_written": None, "_temporary": None, "_transfer": None}
