"""Weights from the trainer's GPUs to those of vLLM servers, by vLLM's own weight transfer over NCCL.

It needs two GPUs or more, and was written against the signatures of vLLM 0.32 on a machine with none: it has not been run.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from lightning_focal.generation.ranks import rank
from lightning_focal.generation.vllm_engine import import_vllm
from lightning_focal.models.folder import hub_weights

if TYPE_CHECKING:
    from lightning_focal.generation.vllm_http import VLLMServer

__all__ = ["Transfer", "weight_source"]


def weight_source(policy: nn.Module, dtype: str | None = None) -> Any:
    """Return a ``WeightSource`` of vLLM over a policy: adapters merged, shards gathered, names as published.

    Args:
        policy: see :func:`~lightning_focal.models.folder.hub_weights`.
        dtype: of what is sent; None = the policy's.

    Raises:
        ImportError: without vLLM.
    """
    import_vllm()
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    wanted = None if dtype is None else getattr(torch, dtype)

    class PolicySource(WeightSource):  # type: ignore[misc]
        """The policy's weights, anew at each pass."""

        def __init__(self) -> None:
            self._known: list[Any] | None = None

        def metadata(self) -> list[Any]:
            if self._known is None:  # a gather, once: names and shapes stay
                self._known = [ParamMeta(name, value.dtype, tuple(value.shape)) for name, value in self]
            return self._known

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, value in hub_weights(policy):
                yield name, value.to(wanted) if value.is_floating_point() and wanted is not None else value

    return PolicySource()


class Transfer:
    """Groups of the trainer's first process with the workers of each server. Every process makes one and sends.

    Args:
        policy: whose weights are sent.
        servers: each started with ``--weight-transfer-config '{"backend": "nccl"}'``.
        dtype: of what is sent; None = the policy's.
    """

    def __init__(self, policy: nn.Module, servers: Sequence[VLLMServer], dtype: str | None = None) -> None:
        import_vllm()
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        self._policy, source, self._engines = policy, weight_source(policy, dtype), list[Any]()
        for server in servers:
            workers = server.workers() if rank() == 0 else 0
            info = NCCLTrainerInitInfo(
                rank=rank(), master_address=_address(server.url), master_port=_free_port(), world_size=1 + workers
            )
            self._engines.append(WeightTransferTrainerFactory.trainer_init(info, client=server, source=source))

    def fits(self, policy: nn.Module) -> bool:
        """Say whether this sends the weights of ``policy``."""
        return policy is self._policy

    def send(self) -> None:
        """Bring the weights to every server."""
        for engine in self._engines:
            engine.send_weights()

    def close(self) -> None:
        """Leave the groups."""
        for engine in self._engines:
            engine.shutdown()


def _address(url: str) -> str:
    """The address of this machine as a server sees it."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)), 20) as link:
        return str(link.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
