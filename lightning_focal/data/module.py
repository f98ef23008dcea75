"""What data modules of prompts share: splits read once, prompts cut to length, loaders that can be resumed."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from lightning_focal.data.loader import PromptLoader
from lightning_focal.functional.choices import expect_choice
from lightning_focal.seeds import run_seed
from lightning_focal.types import Message, Prompts

__all__ = ["PromptDataModule", "content_mark", "data_rank"]

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


def data_rank(trainer: Any) -> tuple[int, int]:
    """Return this process's place among all, and their number; ``(0, 1)`` without a Trainer.

    Processes that compute layers together (tensor parallelism) still get prompts of their own: Lightning's
    ``distributed_sampler_kwargs`` would give them the same.
    """
    return (0, 1) if trainer is None else (int(trainer.global_rank), int(trainer.world_size))


class PromptDataModule(LightningDataModule, ABC):
    """Rows by split, each with an ``id``, that become prompts.

    Args:
        files: what each of ``train``, ``val``, ``test`` and ``predict`` is read from; None = nothing.
        batch_size: rows in a training step, over all processes.
        eval_batch_size: rows answered at once in validation, test and prediction, over all processes.
        max_prompt_tokens: longest chat of a row, in tokens, chat template included.
        on_long_prompt: ``drop`` or ``error``.
        limit_train: use only the first so many training rows; None = all.
        limit_val: the same for held-out rows.
        shuffle: permute the training rows anew each epoch.
        seed: of that permutation; that of the run by default.

    Attributes:
        rows: what was read so far, by split.
        dropped: number of rows left out as too long, by split.
    """

    unit = "prompts"

    def __init__(
        self,
        files: Mapping[str, str | None],
        *,
        batch_size: int,
        eval_batch_size: int,
        max_prompt_tokens: int,
        on_long_prompt: str,
        limit_train: int | None,
        limit_val: int | None,
        shuffle: bool,
        seed: int | None,
    ) -> None:
        super().__init__()
        if not any(files.values()):
            raise ValueError("`data` needs at least one of `train`, `val`, `test`, `predict`")
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_prompt_tokens": max_prompt_tokens}
        for name, count in {**counts, "limit_train": limit_train, "limit_val": limit_val}.items():
            if count is not None and count < 1:
                raise ValueError(f"`data.{name}` must be >= 1, got {count}")
        expect_choice("data.on_long_prompt", on_long_prompt, ("drop", "error"))
        self.files = dict(files)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.max_prompt_tokens, self.on_long_prompt = max_prompt_tokens, on_long_prompt
        self.limits = {"train": limit_train, "val": limit_val}
        self.shuffle, self.seed = shuffle, run_seed(seed)
        self.rows: dict[str, list[Any]] = {}
        self.dropped: dict[str, int] = {}

    @abstractmethod
    def read_split(self, split: str, path: str) -> list[Any]:
        """Read the rows of a split."""

    @abstractmethod
    def make_prompts(self, split: str, rows: Sequence[Any]) -> Prompts:
        """Make a batch of rows."""

    @abstractmethod
    def chats(self, split: str, row: Any) -> Sequence[Sequence[Message]]:
        """Return every chat of a row that will be put to the policy; the longest one counts."""

    def setup(self, stage: str) -> None:
        """Read the files a stage needs; called on every process, reads the same rows on each."""
        for split in _SPLITS[stage]:
            if split in self.rows or (split == "val" and stage == "fit" and self.files["val"] is None):
                continue
            path = self.files[split]
            if path is None:
                raise ValueError(f"`data.{split}` must name a file for `lightning_focal {stage}`, got none")
            self.rows[split] = self.read_split(split, path)[: self.limits.get(split)]

    def splits(self) -> Mapping[str, Prompts]:
        """Return all prompts read so far, by split: strategies check them before a model is loaded."""
        return {split: self.make_prompts(split, rows) for split, rows in self.rows.items()}

    def level_keys(self) -> list[str]:
        """Return every criterion key of the rows read so far, sorted: the same list on every process."""
        return []

    def criterion_names(self) -> list[str]:
        """Return every criterion name of the rows read so far, sorted."""
        return []

    def train_dataloader(self) -> PromptLoader:
        """Full batches of training prompts."""
        return self._loader("train", "batch_size", shuffle=self.shuffle, drop_last=True)

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
        rank, world_size = data_rank(self.trainer)
        return PromptLoader(
            lambda numbers: self.make_prompts(split, [rows[i] for i in numbers]),
            len(rows),
            getattr(self, size),
            shuffle=shuffle,
            seed=self.seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            name=f"data.{size}",
            content=(lambda: content_mark(self.make_prompts(split, rows))) if split == "train" else None,
        )

    def drop_long_prompts(self, count_tokens: Callable[[Sequence[Message]], int]) -> None:
        """Leave out, or refuse, rows with a chat longer than the limit; the module calls this once it can count tokens.

        Args:
            count_tokens: length of a chat in tokens, chat template included.

        Raises:
            ValueError: with ``on_long_prompt: error`` at the first long prompt; and when no row of a split is left.
        """
        for split, rows in self.rows.items():
            if split in self.dropped:
                continue
            path, kept = self.files[split], []
            for row in rows:
                length = max(count_tokens(chat) for chat in self.chats(split, row))
                if length <= self.max_prompt_tokens:
                    kept.append(row)
                elif self.on_long_prompt == "error":
                    raise ValueError(
                        f"{path}: prompt {row.id!r} has {length} tokens, `data.max_prompt_tokens` allows {self.max_prompt_tokens}; "
                        "raise the limit, or write `data.on_long_prompt: drop`"
                    )
            self.dropped[split] = len(rows) - len(kept)
            if not kept:
                raise ValueError(f"{path}: every prompt is longer than `data.max_prompt_tokens` = {self.max_prompt_tokens}")
            if self.dropped[split]:
                _log.warning(
                    "%s: dropped %d of %d %s longer than %d tokens",
                    path,
                    self.dropped[split],
                    len(rows),
                    self.unit,
                    self.max_prompt_tokens,
                )
            self.rows[split] = kept
