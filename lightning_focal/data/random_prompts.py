"""Prompts of random letters, for controlled problems."""

from __future__ import annotations

import random

from lightning.pytorch import LightningDataModule

from lightning_focal.data.loader import PromptLoader
from lightning_focal.data.module import data_rank
from lightning_focal.types import Prompts

__all__ = ["RandomPrompts"]


class RandomPrompts(LightningDataModule):
    """Prompts of random lower-case letters: something to answer where the question does not matter.

    Args:
        train: number of training prompts.
        val: number of held-out prompts.
        letters: in a prompt.
        batch_size: prompts in a training step, over all processes.
        eval_batch_size: held-out prompts answered at once, over all processes.
        seed: of the letters and of the order.
    """

    def __init__(
        self, train: int = 64, val: int = 16, letters: int = 4, batch_size: int = 8, eval_batch_size: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value in {"train": train, "val": val, "letters": letters}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be >= 1, got {value}")
        if train + val > 26**letters:
            raise ValueError(f"`letters` = {letters} gives {26**letters} prompts, {train + val} are needed")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        dice, words = random.Random(seed), dict[str, None]()
        while len(words) < train + val:
            words["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=letters))] = None
        self.rows = {"train": list(words)[:train], "val": list(words)[train:]}

    def train_dataloader(self) -> PromptLoader:
        """Full batches in an order that is a function of seed and epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> PromptLoader:
        """Held-out prompts."""
        return self._loader("val", min(self.eval_batch_size, len(self.rows["val"])), shuffle=False)

    def _loader(self, split: str, batch_size: int, shuffle: bool) -> PromptLoader:
        rows = self.rows[split]
        rank, world_size = data_rank(self.trainer)
        return PromptLoader(
            lambda numbers: Prompts(
                ids=tuple(rows[i] for i in numbers), messages=tuple(({"role": "user", "content": rows[i]},) for i in numbers)
            ),
            len(rows),
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            drop_last=shuffle,
            rank=rank,
            world_size=world_size,
            content=(lambda: " ".join(rows)) if split == "train" else None,
        )
