"""What the modules ask of the processes that train together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_focal.modules.update import VIEWS, Sequences

__all__ = ["Processes"]

T = TypeVar("T")


class Processes:
    """Sums, maxima and means over the processes of a Trainer's strategy. A single process communicates nothing.

    Every call is a collective: each process makes it, also one that was given no prompt.

    Args:
        module: whose Trainer and device are used.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self._module.trainer.world_size)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self._module.trainer.global_rank)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over processes."""
        return self._reduce(value, "sum")

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over processes."""
        return self._reduce(value, "mean")

    def max(self, value: Tensor) -> Tensor:
        """Return the largest over processes, element by element."""
        return self._reduce(value, "max")

    def max_over_ranks(self, number: int) -> int:
        """Return the largest of a number."""
        return number if self.count == 1 else int(self._reduce(torch.tensor(number), "max"))

    def first(self, value: T) -> T:
        """Return what the first process has."""
        return value if self.count == 1 else self._module.trainer.strategy.broadcast(value)

    def gather(self, values: list[T]) -> list[T]:
        """Return what all processes have, rank by rank; plain data and tensors on the host."""
        if self.count == 1:
            return values
        of_ranks: list[list[T]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(of_ranks, values)
        return [value for of_rank in of_ranks for value in of_rank]

    def _reduce(self, value: Tensor, op: str) -> Tensor:
        if self.count == 1:
            return value
        strategy: Any = self._module.trainer.strategy
        return cast(Tensor, strategy.reduce(value.to(self._module.device), reduce_op=op))

    def no_sync(self) -> AbstractContextManager[None]:
        """Within the context a backward adds to the gradients of this process alone, where the strategy allows it."""
        hold = getattr(self._module.trainer.strategy, "block_backward_sync", nullcontext)
        return cast("AbstractContextManager[None]", hold())

    def times(self, seconds: Mapping[str, float], tokens: float) -> dict[str, float]:
        """Return ``<phase>_s`` of the slowest process, and ``tokens_per_s`` of all of them while they ``generate``."""
        slowest = self.max(torch.tensor(list(seconds.values()), dtype=torch.float32)).tolist()
        timed = {f"{name}_s": value for name, value in zip(seconds, slowest, strict=True)}
        written = float(self.sum(torch.tensor(tokens, dtype=torch.float32)))
        return timed | {"tokens_per_s": written / max(1e-9, timed["generate_s"])}

    def places(self, sequences: Sequences, group_size: int) -> tuple[list[int], int] | None:
        """Where each row would stand if one process had them all, and how many there are; None where one process does.

        Rank ``r`` of ``W`` holds the questions ``r, r + W, ...`` of a batch (see
        :class:`~lightning_focal.data.PromptLoader`), all originals before all rephrasings.
        """
        if self.count == 1:
            return None
        rank, n = self.rank, len(sequences) // group_size
        views = [0] * n if sequences.views is None else sequences.views[::group_size].tolist()
        totals = [int(total) for total in self.sum(torch.tensor([views.count(view) for view in range(VIEWS)])).tolist()]
        seen, prompts = [0] * VIEWS, []
        for view in views:
            prompts.append(sum(totals[:view]) + seen[view] * self.count + rank)
            seen[view] += 1
        return [prompt * group_size + g for prompt in prompts for g in range(group_size)], sum(totals) * group_size
