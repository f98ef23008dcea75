"""Processes that compute the policy's layers together, and so have to compute the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_focal.models import Sizes
from lightning_focal.modules.update import Sequences

__all__ = ["Team", "join_sequences"]


@dataclass(frozen=True)
class Team:
    """Some of the processes of a run; every method is a collective of theirs.

    Args:
        group: process group; None = this process alone, which is asked nothing.
        device: that the group exchanges tensors on; None = where they are.
    """

    group: Any = None
    device: torch.device | None = None

    def counts(self, rows: int) -> list[int]:
        """Return the number of rows each process brings, in order."""
        return [rows] if self.group is None else [int(row[0]) for row in self._gather(torch.tensor([rows]))]

    def join(self, values: Tensor, left: bool = False) -> Tensor:
        """Put the rows of all processes one below the other, those of the first one first.

        Args:
            values: ``[N]`` or ``[N, width]``; number of rows and width may differ between processes, dtypes may not.
            left: shorter rows are padded on the left; with zeros.

        Returns:
            ``[sum of N, largest width]`` on the device of ``values``, the same on every process.
        """
        if self.group is None:
            return values
        wide = values if values.ndim == 2 else values[:, None]
        shapes = torch.stack(self._gather(torch.tensor(wide.shape))).tolist()
        rows, width = (max(sizes) for sizes in zip(*shapes, strict=True))
        empty = width - wide.shape[1]
        plain = wide.to(torch.uint8) if values.dtype == torch.bool else wide
        padded = torch.nn.functional.pad(plain, (empty * left, empty * (not left), 0, rows - len(wide)))
        if rows * width == 0:
            return values.new_zeros((0, width) if values.ndim == 2 else 0)
        parts = [part[:count] for part, (count, _) in zip(self._gather(padded), shapes, strict=True)]
        joined = torch.cat(parts).to(values.device, values.dtype)
        return joined if values.ndim == 2 else joined[:, 0]

    def join_optional(self, values: Tensor | None, like: Tensor) -> Tensor | None:
        """Join what every process with rows has; None where one of them has not.

        Args:
            values: see :meth:`join`, or None.
            like: what stands for them on a process without rows: its dtype and shape count.
        """
        if self.group is None:
            return values
        states = [int(state[0]) for state in self._gather(torch.tensor([2 if values is not None else int(len(like) == 0)]))]
        if 0 in states or 2 not in states:
            return None
        return self.join(like if values is None else values)

    def own(self, joined: Tensor, rows: int) -> Tensor:
        """Return the rows of this process out of those of all.

        Args:
            joined: ``[sum of N, ...]``.
            rows: ``N`` of this process.
        """
        if self.group is None:
            return joined
        before = sum(self.counts(rows)[: dist.get_rank(self.group)])
        return joined[before : before + rows]

    def _gather(self, values: Tensor) -> list[Tensor]:
        values = values.to(self.device or values.device).contiguous()
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, values, group=self.group)
        return parts


def join_sequences(sequences: Sequences, team: Team, group_size: int) -> Sequences:
    """Let every process of a team have the rows of all of them.

    Args:
        sequences: of this process, as sampled: without log-probabilities of policy and reference.
        team: exchanges them.
        group_size: rows of a prompt.
    """
    if team.group is None:
        return sequences
    prompt_mask = team.join(sequences.prompt_mask, left=True)
    response_mask = team.join(sequences.response_mask)
    like = sequences.response_mask
    return replace(
        sequences,
        prompt_ids=team.join(sequences.prompt_ids, left=True),
        prompt_mask=prompt_mask,
        response_ids=team.join(sequences.response_ids),
        response_mask=response_mask,
        advantages=team.join(sequences.advantages),
        valid=team.join(sequences.valid),
        sampling_logp=team.join_optional(sequences.sampling_logp, like.float()),
        views=team.join_optional(sequences.views, like.new_zeros(len(like), dtype=torch.int64)),
        sizes=Sizes.of(prompt_mask, response_mask, group_size),
    )
