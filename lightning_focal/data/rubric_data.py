"""Rubric files as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning_focal.data.module import PromptDataModule
from lightning_focal.functional.choices import expect_choice
from lightning_focal.rubrics import RubricRow, read_rows
from lightning_focal.types import Message, Prompts, level_key

__all__ = ["RubricDataModule", "prompts_of"]


def prompts_of(rows: Sequence[RubricRow]) -> Prompts:
    """Make a batch of rows."""
    return Prompts(
        ids=tuple(row.id for row in rows),
        messages=tuple(tuple(row.messages) for row in rows),
        rubrics=tuple(row.rubric for row in rows),
        answers=tuple(row.answer for row in rows),
        extra=tuple(row.extra for row in rows),
    )


class RubricDataModule(PromptDataModule):
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
        super().__init__(
            {"train": train, "val": val, "test": test or val, "predict": predict or val},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_prompt_tokens=max_prompt_tokens,
            on_long_prompt=on_long_prompt,
            limit_train=limit_train,
            limit_val=limit_val,
            shuffle=shuffle,
            seed=seed,
        )
        expect_choice("data.on_bad_row", on_bad_row, ("error", "skip"))
        self.system_prompt, self.on_bad_row = system_prompt, on_bad_row

    def read_split(self, split: str, path: str) -> list[RubricRow]:
        """Read the rubrics of a split."""
        return [self._with_system(row) for row in read_rows(Path(path), on_bad_row=self.on_bad_row)]

    def make_prompts(self, split: str, rows: Sequence[RubricRow]) -> Prompts:
        """Make a batch of rows."""
        return prompts_of(rows)

    def chats(self, split: str, row: RubricRow) -> Sequence[Sequence[Message]]:
        """Return the row's chat."""
        return (row.messages,)

    def level_keys(self) -> list[str]:
        """Return every criterion key of the rows read so far, sorted: the same list on every process."""
        criteria = (criterion for rows in self.rows.values() for row in rows for criterion in row.rubric.criteria)
        return sorted({level_key(criterion.name, criterion.tags) for criterion in criteria})

    def criterion_names(self) -> list[str]:
        """Return every criterion name of the rows read so far, sorted."""
        return sorted({criterion.name for rows in self.rows.values() for row in rows for criterion in row.rubric.criteria})

    def _with_system(self, row: RubricRow) -> RubricRow:
        if self.system_prompt is None or row.messages[0]["role"] == "system":
            return row
        system: Message = {"role": "system", "content": self.system_prompt}
        return replace(row, messages=(system, *row.messages))
