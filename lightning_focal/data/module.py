"""What data modules of prompts share: splits read once, prompts cut to length, loaders that can be resumed."""

from __future__ import annotations

import hashlib
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningDataModule

from lightning_focal.arguments import given_arguments
from lightning_focal.data.curriculum import Curriculum
from lightning_focal.data.loader import PromptLoader
from lightning_focal.functional.choices import expect_choice
from lightning_focal.seeds import run_seed
from lightning_focal.types import Message, Prompts

__all__ = ["PromptDataModule", "RandomPrompts", "content_mark", "with_system"]

_log = logging.getLogger(__name__)
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


def content_mark(prompts: Prompts) -> str:
    """Return a mark of prompts, rubrics and gold answers in their order: a checkpoint tells by it whether the data is the same.

    >>> content_mark(Prompts(("a",), (({"role": "user", "content": "b"},),)))
    'bd7ade4b897e'
    """
    digest = hashlib.sha256()
    for column in (prompts.ids, prompts.messages, prompts.rubrics, prompts.answers):
        for value in column:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:12]


def with_system(chat: Sequence[Message], system_prompt: str | None) -> tuple[Message, ...]:
    """Put a system message before a chat that does not open with one; None = nothing."""
    if system_prompt is None or (chat and chat[0]["role"] == "system"):
        return tuple(chat)
    return ({"role": "system", "content": system_prompt}, *chat)


class PromptDataModule(LightningDataModule, ABC):
    """Rows by split, each with an ``id``, that become prompts. Subclasses say in ``files`` what each split is read from.

    Args:
        batch_size: prompts in a training step, over all processes; a question with two views counts as one.
        eval_batch_size: prompts answered at once in validation, test and prediction, over all processes.
        max_prompt_tokens: longest prompt, in tokens of the policy's tokenizer, chat template included; of a pair, the longer side.
        on_long_prompt: ``drop`` leaves longer ones out, both sides of a pair, and counts them; ``error`` stops.
        limit_train: use only the first so many training rows; None = all.
        limit_val: the same for held-out rows.
        shuffle: permute the training rows anew each epoch.
        seed: of that permutation, and of generated questions; that of the run by default.
        curriculum: which training prompts come next, by how well they were answered so far; all by default.

    Attributes:
        files: what each of ``train``, ``val``, ``test`` and ``predict`` is read from; None = nothing.
        rows: what was read so far, by split.
        dropped: number of rows left out as too long, by split.
    """

    unit = "prompts"
    files: Mapping[str, str | None]

    def __init__(
        self,
        batch_size: int = 4,
        eval_batch_size: int = 16,
        max_prompt_tokens: int = 512,
        on_long_prompt: Literal["drop", "error"] = "drop",
        limit_train: int | None = None,
        limit_val: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__()
        self.arguments = given_arguments(self)
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_prompt_tokens": max_prompt_tokens}
        for name, count in {**counts, "limit_train": limit_train, "limit_val": limit_val}.items():
            if count is not None and count < 1:
                raise ValueError(f"`data.{name}` must be >= 1, got {count}")
        expect_choice("data.on_long_prompt", on_long_prompt, ("drop", "error"))
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.max_prompt_tokens, self.on_long_prompt = max_prompt_tokens, on_long_prompt
        self.limits = {"train": limit_train, "val": limit_val}
        self.shuffle, self.seed, self.curriculum = shuffle, run_seed(seed), curriculum
        self.rows: dict[str, list[Any]] = {}
        self.dropped: dict[str, int] = {}

    @abstractmethod
    def read_split(self, split: str, path: str) -> list[Any]:
        """Read the rows of a split."""

    @abstractmethod
    def make_prompts(self, split: str, rows: Sequence[Any]) -> Prompts:
        """Make a batch of rows."""

    def expect_files(self) -> None:
        """Check that there is something to read.

        Raises:
            ValueError: where no split has a file.
        """
        if not any(self.files.values()):
            raise ValueError("`data` needs at least one of `train`, `val`, `test`, `predict`")

    def setup(self, stage: str) -> None:
        """Read the files a stage needs; called on every process, reads the same rows on each."""
        for split in _SPLITS[stage]:
            if split in self.rows or (split == "val" and stage == "fit" and self.files["val"] is None):
                continue
            path = self.files[split]
            if path is None:
                raise ValueError(f"`data.{split}` must name a file for `lightning_focal {stage}`, got none")
            try:
                self.rows[split] = self.read_split(split, path)[: self.limits.get(split)]
            except FileNotFoundError as error:
                raise FileNotFoundError(str(error).replace("`path`", f"`data.{split}`", 1)) from error

    def splits(self) -> Mapping[str, Prompts]:
        """Return all prompts read so far, by split: strategies check them before a model is loaded."""
        return {split: self.make_prompts(split, rows) for split, rows in self.rows.items()}

    def level_keys(self) -> list[str]:
        """Return every criterion key of the rows read so far, sorted: the same list on every process."""
        return []

    def criterion_names(self) -> list[str]:
        """Return the criterion names of the rows read so far that can be followed one by one; ``others`` stands for the rest."""
        return []

    def train_dataloader(self) -> PromptLoader:
        """Full batches of training prompts; the same ones each epoch under `trainer.overfit_batches`."""
        shuffle = self.shuffle and not getattr(self.trainer, "overfit_batches", 0)
        return self._loader("train", "batch_size", shuffle=shuffle, drop_last=True)

    def val_dataloader(self) -> PromptLoader | list[PromptLoader]:
        """Held-out prompts in file order."""
        return self._loader("val", "eval_batch_size") if "val" in self.rows else []

    def test_dataloader(self) -> PromptLoader:
        """Test prompts in file order."""
        return self._loader("test", "eval_batch_size")

    def predict_dataloader(self) -> PromptLoader:
        """Prompts to answer, in file order."""
        return self._loader("predict", "eval_batch_size")

    def _loader(self, split: str, size: str, shuffle: bool = False, drop_last: bool = False) -> PromptLoader:
        rows = self.rows[split]
        return PromptLoader(
            lambda numbers: self.make_prompts(split, [rows[i] for i in numbers]),
            len(rows),
            getattr(self, size),
            shuffle=shuffle,
            seed=self.seed,
            drop_last=drop_last,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            name=f"data.{size}",
            content=(lambda: content_mark(self.make_prompts(split, rows))) if split == "train" else None,
            curriculum=self.curriculum if split == "train" else None,
            questions=lambda: self._questions(split, rows),
        )

    def _questions(self, split: str, rows: Sequence[Any]) -> Sequence[str]:
        prompts = self.make_prompts(split, rows)
        return (prompts.questions or prompts.ids)[: len(rows)]  # originals come first

    def drop_long_prompts(self, count_tokens: Callable[[Sequence[Message]], int]) -> None:
        """Leave out, or refuse, rows with a chat longer than the limit; the module calls this once it can count tokens.

        Args:
            count_tokens: length of a chat in tokens, chat template included.

        Raises:
            ValueError: with ``on_long_prompt: error`` at the first long prompt; and when no row of a split is left.
        """
        for split in [split for split in self.rows if split not in self.dropped]:
            rows, path, limit = self.rows[split], self.files[split], self.max_prompt_tokens
            lengths = [max(map(count_tokens, self.make_prompts(split, [row]).messages)) for row in rows]
            kept = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
            long = next(((row, length) for row, length in zip(rows, lengths, strict=True) if length > limit), None)
            if long and self.on_long_prompt == "error":
                raise ValueError(
                    f"{path}: prompt {long[0].id!r} has {long[1]} tokens, `data.max_prompt_tokens` allows {limit}; "
                    "raise the limit, or write `data.on_long_prompt: drop`"
                )
            if not kept:
                raise ValueError(f"{path}: every prompt is longer than `data.max_prompt_tokens` = {limit}")
            if long:
                dropped = len(rows) - len(kept)
                _log.warning("%s: dropped %d of %d %s longer than %d tokens", path, dropped, len(rows), self.unit, limit)
            self.rows[split], self.dropped[split] = kept, len(rows) - len(kept)


class RandomPrompts(PromptDataModule):
    """Prompts of random lower-case letters, for jobs in which the question does not matter.

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
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed)
        for name, value in {"train": train, "val": val, "letters": letters}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be >= 1, got {value}")
        if train + val > 26**letters:
            raise ValueError(f"`letters` = {letters} gives {26**letters} prompts, {train + val} are needed")
        generator, words = random.Random(seed), dict[str, None]()
        while len(words) < train + val:
            words["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=letters))] = None
        self.rows = {"train": list(words)[:train], "val": list(words)[train:]}
        self.files = {"train": "random letters", "val": "random letters", "test": None, "predict": None}

    def read_split(self, split: str, path: str) -> list[str]:
        """Return the words of a split."""
        return self.rows[split]

    def make_prompts(self, split: str, rows: Sequence[str]) -> Prompts:
        """Make a batch of words."""
        return Prompts(ids=tuple(rows), messages=tuple(({"role": "user", "content": word},) for word in rows))
