"""Who rolls out: the protocol, and how to sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from lightning_focal.types import Prompts, Rollouts

__all__ = ["Finished", "Generator", "Sampling"]

Finished = Callable[[int, int, str], None]
"""Takes a response that is whole: row of its prompt, place in the group, and the text, as it will stand in the rollouts."""


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn, applied in this order: temperature, ``top_k``, ``top_p``.

    Args:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the fewest most likely tokens whose probabilities reach this sum, in (0, 1]; 1 keeps all.
        top_k: keep this many most likely tokens; 0 keeps all.
        max_new_tokens: length limit of a response in tokens, its eos included.
        min_new_tokens: no eos is drawn before a response has this many tokens; equal to ``max_new_tokens``, the length is forced.

    Raises:
        ValueError: on a value out of range.

    >>> Sampling(top_p=0.0)
    Traceback (most recent call last):
    ...
    ValueError: `top_p` must be in (0, 1], got 0.0
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"`temperature` must be finite and >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"`top_k` must be >= 0, got {self.top_k}")
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be >= 1, got {self.max_new_tokens}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(f"`min_new_tokens` must be in [0, {self.max_new_tokens}], got {self.min_new_tokens}")


class Generator(ABC):
    """Writes ``G`` responses to each of ``P`` prompts.

    Attributes:
        tells_finished: :meth:`generate` takes ``finished`` and calls it while other responses are still written.
    """

    tells_finished: ClassVar[bool] = False

    def start(self, sampling: Sampling, needs_logp: bool = False) -> None:
        """Find out, before anything expensive, whether it can work; every rank calls this first. Does nothing by default.

        Args:
            sampling: how training rollouts will be drawn.
            needs_logp: the update needs :attr:`Rollouts.logp`.

        Raises:
            ValueError: if it cannot work as it is set up.
        """

    def describe(self, policy: nn.Module) -> str:
        """Say in a few words how it rolls out, for the run's first line; its class by default."""
        return type(self).__name__

    def close(self) -> None:
        """Free what it holds, at the end of a run. Does nothing by default."""

    @abstractmethod
    def sync(self, policy: nn.Module, version: int) -> None:
        """Learn that the policy's weights changed.

        Every rank calls this after an update and before the next :meth:`generate`; it may run collectives.
        """

    @abstractmethod
    def generate(
        self,
        policy: nn.Module,
        tokenizer: Any,
        prompts: Prompts,
        *,
        group_size: int,
        seeds: Sequence[int],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> Rollouts:
        """Roll out.

        Args:
            policy: the weights to sample from, as of the last :meth:`sync`.
            tokenizer: of the policy.
            prompts: with ``tokens`` filled.
            group_size: ``G``, responses a prompt.
            seeds: one a prompt; a response depends on its prompt, that seed, its place in the group and the weights alone.
            sampling: how to draw.
            finished: called, from this thread, with each response once it is whole; given to those alone that say ``tells_finished``.

        Returns:
            Rollouts in the order of ``prompts``.
        """
