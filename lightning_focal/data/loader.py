"""A loader that gives whole groups to ranks and can be resumed in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from lightning_focal.data.curriculum import Curriculum
from lightning_focal.seeds import prompt_seed
from lightning_focal.types import Prompts

__all__ = ["PromptLoader"]

_log = logging.getLogger(__name__)


class PromptLoader:
    """Batches of prompts in an order that is a function of ``(seed, epoch)`` alone, but for what a curriculum passes over.

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
        curriculum: which rows are taken; None = all.
        questions: returns the names of the rows, by which their levels are kept; for a curriculum.

    Attributes:
        levels: running level of each question that was met, see :class:`~lightning_focal.data.Curriculum`.
        skipped: rows of the last batch, over all ranks, that the curriculum gave away.

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
        curriculum: Curriculum | None = None,
        questions: Callable[[], Sequence[str]] | None = None,
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
        self.curriculum, self.levels, self.skipped = curriculum, dict[str, float](), 0
        self._list_questions = questions or (lambda: [str(row) for row in range(size)])
        self._given = set[int]()  # rows of the batch under way
        self._spare = [0, 0]  # pass over the rows, and place in it
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
        return self._permuted((self.seed * 1_000_003 + self.epoch) % 2**63)

    def _permuted(self, seed: int) -> list[int]:
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(seed)).tolist()

    @cached_property
    def questions(self) -> Sequence[str]:
        """Names of the rows."""
        return self._list_questions()

    def observe(self, levels: Mapping[str, float]) -> None:
        """Move the running levels; every rank is told of all questions of a batch."""
        if self.curriculum is not None:
            self.levels |= {name: self.curriculum.moved(self.levels.get(name), level) for name, level in levels.items()}

    def spare(self, count: int) -> list[int]:
        """Return up to ``count`` further rows for the batch under way, the same ones on every rank; of these each takes its own.

        They come from permutations of their own, so that an epoch has as many batches, of the same rows, whatever is drawn here. Rows
        that the batch has already are left out, and those that the curriculum passes over.
        """
        found: list[int] = []
        for _ in range(2 * self.size):  # whatever the place, each row comes by
            if len(found) == count:
                break
            if self._spare[1] >= self.size:
                self._spare = [self._spare[0] + 1, 0]
            row = self._spare_order(self._spare[0])[self._spare[1]]
            self._spare[1] += 1
            if row not in self._given and self._takes(row):
                found.append(row)
                self._given.add(row)
        return found

    def _spare_order(self, number: int) -> list[int]:
        if self._last_order is None or self._last_order[0] != number:
            self._last_order = number, self._permuted(prompt_seed(self.seed, "spare", number, ""))
        return self._last_order[1]

    _last_order: tuple[int, list[int]] | None = None

    def _takes(self, row: int, revisits: bool = False) -> bool:
        if self.curriculum is None or self.curriculum.takes(self.levels.get(self.questions[row])):
            return True
        dice = prompt_seed(self.seed, "revisit", self.epoch, self.questions[row]) / 2**63
        return revisits and dice < self.curriculum.revisit

    def _chosen(self, rows: list[int]) -> list[int]:
        """The rows of a batch, over all ranks: one that is passed over gives its place to a spare one, as long as there are any."""
        passed = [place for place, row in enumerate(rows) if not self._takes(row, revisits=True)]
        self._given, spare = {*rows}, []
        if passed:
            spare = self.spare(len(passed))
            rows = rows.copy()
        for place, row in zip(passed, spare, strict=False):
            rows[place] = row
        self.skipped = len(spare)
        return rows

    def __iter__(self) -> Iterator[Prompts]:
        order = self.order()
        self.position, self._resume_at = self._resume_at % len(self), 0
        while self.position < len(self):
            rows = order[self.position * self.batch_size : (self.position + 1) * self.batch_size]
            self.position += 1
            yield self.take(self._chosen(rows)[self.rank :: self.world_size])

    @cached_property
    def mark(self) -> str:
        """What the rows are told by."""
        return self.content() if self.content is not None else ""

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of batches given out, of what, the place among the spare rows and the levels."""
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "position": self.position,
            "spare": [*self._spare],
            "levels": {**self.levels},
        }
        if self.content is not None:
            state["of"] = {"rows": self.size, "batch_size": self.batch_size, "seed": self.seed, "content": self.mark}
        return state

    def load_pool(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what outlives an epoch, the place among the spare rows and the levels; the Trainer does not at the end of one."""
        self._spare, self.levels = [*state_dict.get("spare", (0, 0))], {**state_dict.get("levels", {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the last batch given out.

        Raises:
            ValueError: for other rows, another batch size or another seed, where the epoch is not over: some rows would be met twice
                and others never.
        """
        self.epoch, self.position = int(state_dict["epoch"]), int(state_dict["position"])
        self._resume_at = self.position
        self.load_pool(state_dict)
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
