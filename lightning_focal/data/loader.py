"""A loader that gives whole groups to ranks and can be resumed in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from lightning_focal.types import Prompts

__all__ = ["PromptLoader"]

_log = logging.getLogger(__name__)


class PromptLoader:
    """Batches of prompts in an order that is a function of ``(seed, epoch)`` alone.

    ``batch_size`` counts prompts of the whole step, over all ranks: rank ``r`` of ``W`` gets rows ``r, r + W, ...`` of each batch, so
    one process and several see the same batches. Where a batch does not come out even, the last ranks get a row less, or none: every
    rank still sees the same number of batches. Lightning saves ``state_dict`` in the checkpoint.

    Args:
        take: builds :class:`Prompts` from row numbers.
        size: number of rows.
        batch_size: prompts a step.
        shuffle: permute rows anew each epoch.
        seed: of the permutation.
        drop_last: leave out an incomplete last batch.
        rank: of this process.
        world_size: number of processes.
        name: what `batch_size` is called in the config, for error messages.
        content: returns a mark of the rows, the same for the same rows: a run that is resumed within an epoch has to meet the rows that
            are left of it. None = take any.

    Raises:
        ValueError: for no rows, a batch size below 1, or one that no batch would fill.
    """

    def __init__(
        self,
        take: Callable[[list[int]], Prompts],
        size: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        name: str = "batch_size",
        content: Callable[[], str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`{name}` must be >= 1, got {batch_size}")
        if size < 1:
            raise ValueError("a loader needs at least one prompt, got 0")
        if drop_last and size < batch_size:
            raise ValueError(f"`{name}` is {batch_size}, but there are only {size} prompts: no batch would be full")
        if shuffle and batch_size % world_size and rank == 0:
            _log.warning(
                "`%s` is %d, no multiple of the %d processes: in every step some of them wait for the others",
                *(name, batch_size, world_size),
            )
        self.take, self.size, self.batch_size = take, size, batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.rank, self.world_size = rank, world_size
        self.name, self.content = name, content
        self.epoch = self.position = 0
        self._resume_at = 0  # where the next iteration begins; one that was broken off starts anew, a restored one goes on
        self.sampler = self.batch_sampler = self  # Lightning tells `sampler.set_epoch` which epoch begins

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch`` from its first batch, unless it is the epoch that is already under way."""
        if epoch != self.epoch:
            self.epoch, self.position, self._resume_at = epoch, 0, 0

    def order(self) -> list[int]:
        """Return row numbers of this epoch in order, over all ranks."""
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(self.size, generator=generator).tolist()

    def __iter__(self) -> Iterator[Prompts]:
        order = self.order()
        self.position, self._resume_at = self._resume_at % len(self), 0
        while self.position < len(self):
            rows = order[self.position * self.batch_size : (self.position + 1) * self.batch_size]
            self.position += 1
            yield self.take(rows[self.rank :: self.world_size])

    @cached_property
    def mark(self) -> str:
        """What the rows are told by."""
        return self.content() if self.content is not None else ""

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of batches given out, and of what."""
        state: dict[str, Any] = {"epoch": self.epoch, "position": self.position}
        if self.content is not None:
            state["of"] = {"rows": self.size, "batch_size": self.batch_size, "seed": self.seed, "content": self.mark}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the last batch given out.

        Raises:
            ValueError: for other rows, another batch size or another seed, where the epoch is not over: some rows would be met twice
                and others never.
        """
        self.epoch, self.position = int(state_dict["epoch"]), int(state_dict["position"])
        self._resume_at = self.position
        was = state_dict.get("of")
        if was is None or self.content is None or self.position % (was["rows"] // was["batch_size"] or 1) == 0:
            return
        end = "the epoch cannot be finished; resume with the same data, or start a new run from the weights alone"
        named = {"rows": "training rows", "batch_size": f"`{self.name}`", "seed": "`data.seed`"}
        for key, now in {"rows": self.size, "batch_size": self.batch_size, "seed": self.seed}.items():
            if was[key] != now:
                raise ValueError(
                    f"the checkpoint was written within an epoch with {was[key]} {named[key]}, this run has {now}: {end}"
                )
        if was["content"] != self.mark:
            raise ValueError(f"the checkpoint was written within an epoch over other training rows: {end}")
