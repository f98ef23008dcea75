"""What the modules ask of the processes that train together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from lightning_focal.modules.team import Team
from lightning_focal.modules.update import VIEWS, Sequences

__all__ = ["Processes"]


class Processes:
    """Sums and the like over the processes of a Trainer's strategy; one process is asked nothing.

    Every call is a collective: each process makes it, also one that was given no prompt.

    Args:
        module: whose Trainer and device are used.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module

    @property
    def _trainer(self) -> Any:
        return self._module.trainer

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self._trainer.world_size)

    @property
    def place(self) -> tuple[int, int]:
        """This process's place among those that share the prompts, and their number."""
        return int(self._trainer.global_rank), self.count

    @property
    def team(self) -> Team:
        """The processes that compute the policy's layers together with this one (tensor parallelism)."""
        strategy = self._trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy) or strategy.device_mesh["tensor_parallel"].size() == 1:
            return Team()
        return Team(strategy.device_mesh["tensor_parallel"].get_group(), strategy.root_device)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over processes."""
        return cast(Tensor, self._reduce(value, "sum"))

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over processes."""
        return cast(Tensor, self._reduce(value, "mean"))

    def largest(self, value: Tensor) -> Tensor:
        """Return the largest over processes, element by element."""
        return cast(Tensor, self._reduce(value, "max"))

    def most(self, number: int) -> int:
        """Return the largest of a number."""
        if self.count == 1:
            return number
        return int(self._reduce(torch.tensor(number, device=self._module.device), "max"))

    def _reduce(self, value: Tensor, op: str) -> Any:
        if self.count == 1:
            return value
        return self._trainer.strategy.reduce(value.to(self._module.device), reduce_op=op)

    def hold_gradients(self) -> AbstractContextManager[None]:
        """Within the context a backward adds to the gradients of this process alone, where the strategy allows it."""
        hold = getattr(self._trainer.strategy, "block_backward_sync", nullcontext)
        return cast("AbstractContextManager[None]", hold())

    def times(self, seconds: Mapping[str, float], tokens: float) -> dict[str, float]:
        """Return ``<phase>_s`` of the slowest process, and ``tokens_per_s`` of all of them while they ``generate``."""
        device = self._module.device
        slowest = self._reduce(torch.tensor(list(seconds.values()), dtype=torch.float32, device=device), "max").tolist()
        timed = {f"{name}_s": value for name, value in zip(seconds, slowest, strict=True)}
        written = float(self.sum(torch.tensor(tokens, dtype=torch.float32, device=device)))
        return timed | {"tokens_per_s": written / max(1e-9, timed["generate_s"])}

    def places(self, sequences: Sequences, group_size: int) -> tuple[list[int], int]:
        """Where each row that is learned from would stand if one process had them all, and how many there are.

        Rank ``r`` of ``W`` holds the questions ``r, r + W, ...`` of a batch (see
        :class:`~lightning_focal.data.PromptLoader`), all originals before all rephrasings. It learns from those of its
        team, one process after another.

        Args:
            sequences: of this process alone.
            group_size: rows of a prompt.
        """
        rank, world_size = self.place
        n = len(sequences) // group_size
        views = [0] * n if sequences.views is None else sequences.views[::group_size].tolist()
        counts = torch.tensor([views.count(view) for view in range(VIEWS)], device=self._module.device)
        totals = [int(count) for count in self.sum(counts).tolist()]
        seen, prompts = [0] * VIEWS, []
        for view in views:
            prompts.append(sum(totals[:view]) + seen[view] * world_size + rank)
            seen[view] += 1
        own = torch.tensor([prompt * group_size + g for prompt in prompts for g in range(group_size)], dtype=torch.int64)
        return self.team.join(own).tolist(), sum(totals) * group_size
