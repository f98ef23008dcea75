"""Rubric files as a LightningDataModule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule

from lightning_focal.data.loader import PromptLoader
from lightning_focal.rubrics import RubricRow, read_rows
from lightning_focal.seeds import run_seed
from lightning_focal.types import Message, Prompts, level_key

__all__ = ["RubricDataModule", "prompts_of"]

_log = logging.getLogger(__name__)


def prompts_of(rows: Sequence[RubricRow]) -> Prompts:
    """Make a batch of rows."""
    return Prompts(
        ids=tuple(row.id for row in rows),
        messages=tuple(tuple(row.messages) for row in rows),
        rubrics=tuple(row.rubric for row in rows),
        answers=tuple(row.answer for row in rows),
        extra=tuple(row.extra for row in rows),
    )


class RubricDataModule(LightningDataModule):
    """Prompts with a rubric each, from files whose format is recognised.

    Args:
        train: file of training prompts (see :func:`~lightning_focal.rubrics.read_rubrics` for formats); None = no training.
        val: held-out prompts, answered before, during and after training.
        test: prompts of ``lightning_focal test``; ``val`` by default.
        predict: prompts of ``lightning_focal predict``; ``val`` by default.
        batch_size: prompts in a training step, over all processes.
        eval_batch_size: prompts answered at once in validation, test and prediction, over all processes.
        system_prompt: put before every chat that does not open with a system message.
        on_bad_row: ``error`` stops at a malformed row, ``skip`` leaves it out and counts it.
        max_prompt_tokens: longest prompt, in tokens of the policy's tokenizer, chat template included.
        on_long_prompt: ``drop`` leaves longer ones out and counts them, ``error`` stops.
        limit_train: use only the first so many training rows; None = all.
        limit_val: the same for held-out rows.
        shuffle: permute the training prompts anew each epoch.
        seed: of that permutation; that of the run by default.

    Attributes:
        dropped: number of prompts left out as too long, by split.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        batch_size: int = 4,
        eval_batch_size: int = 16,
        system_prompt: str | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        max_prompt_tokens: int = 512,
        on_long_prompt: Literal["drop", "error"] = "drop",
        limit_train: int | None = None,
        limit_val: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if train is None and val is None and test is None and predict is None:
            raise ValueError("`data` needs at least one of `train`, `val`, `test`, `predict`")
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_prompt_tokens": max_prompt_tokens}
        for name, count in {**counts, "limit_train": limit_train, "limit_val": limit_val}.items():
            if count is not None and count < 1:
                raise ValueError(f"`data.{name}` must be >= 1, got {count}")
        if on_long_prompt not in ("drop", "error"):
            raise ValueError(f"`data.on_long_prompt` must be 'drop' or 'error', got {on_long_prompt!r}")
        self.files: dict[str, str | None] = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.system_prompt, self.on_bad_row = system_prompt, on_bad_row
        self.max_prompt_tokens, self.on_long_prompt = max_prompt_tokens, on_long_prompt
        self.limits = {"train": limit_train, "val": limit_val}
        self.shuffle, self.seed = shuffle, run_seed(seed)
        self.rows: dict[str, list[RubricRow]] = {}
        self.dropped: dict[str, int] = {}

    def setup(self, stage: str) -> None:
        """Read the files a stage needs; called on every process, reads the same rows on each."""
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}[stage]
        for split in wanted:
            if split in self.rows or (split == "val" and stage == "fit" and self.files["val"] is None):
                continue
            path = self.files[split]
            if path is None:
                raise ValueError(f"`data.{split}` must name a file for `lightning_focal {stage}`, got none")
            rows = [self._with_system(row) for row in read_rows(Path(path), on_bad_row=self.on_bad_row)]
            self.rows[split] = rows[: self.limits.get(split)]

    def splits(self) -> Mapping[str, Prompts]:
        """Return all prompts read so far, by split: strategies check them before a model is loaded."""
        return {split: prompts_of(rows) for split, rows in self.rows.items()}

    def level_keys(self) -> list[str]:
        """Return every criterion key of the rows read so far, sorted: the same list on every process."""
        criteria = (criterion for rows in self.rows.values() for row in rows for criterion in row.rubric.criteria)
        return sorted({level_key(criterion.name, criterion.tags) for criterion in criteria})

    def criterion_names(self) -> list[str]:
        """Return every criterion name of the rows read so far, sorted."""
        return sorted({criterion.name for rows in self.rows.values() for row in rows for criterion in row.rubric.criteria})

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
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return PromptLoader(
            lambda numbers: prompts_of([rows[i] for i in numbers]),
            len(rows),
            getattr(self, size),
            shuffle=shuffle,
            seed=self.seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            name=f"data.{size}",
        )

    def _with_system(self, row: RubricRow) -> RubricRow:
        if self.system_prompt is None or row.messages[0]["role"] == "system":
            return row
        system: Message = {"role": "system", "content": self.system_prompt}
        return RubricRow(row.id, (system, *row.messages), row.rubric, row.answer, row.extra)

    def drop_long_prompts(self, count_tokens: Callable[[Sequence[Message]], int]) -> None:
        """Leave out, or refuse, prompts longer than the limit; the module calls this once it can count tokens.

        Args:
            count_tokens: length of a chat in tokens, chat template included.

        Raises:
            ValueError: with ``on_long_prompt: error`` at the first long prompt; and when no prompt of a split is left.
        """
        for split, rows in self.rows.items():
            if split in self.dropped:
                continue
            path, kept = self.files[split], []
            for row in rows:
                length = count_tokens(row.messages)
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
                    "%s: dropped %d of %d prompts longer than %d tokens",
                    path,
                    self.dropped[split],
                    len(rows),
                    self.max_prompt_tokens,
                )
            self.rows[split] = kept
