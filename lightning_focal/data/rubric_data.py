"""Rubric files as a LightningDataModule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning_focal.data.module import PromptDataModule, with_system
from lightning_focal.functional.choices import expect_choice
from lightning_focal.judges import RuleJudge
from lightning_focal.judges.combine import is_rule
from lightning_focal.keys import level_key
from lightning_focal.rubrics import Criterion, RubricRow, few_of, pool_untagged, read_rows
from lightning_focal.types import Prompts

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
        system_prompt: put before every chat that does not open with a system message.
        on_bad_row: ``error`` stops at a bad row, ``skip`` leaves it out, also one whose check cannot be made (a gold answer that cannot
            be read, say), and says how many and which.
        **kwargs: of :class:`~lightning_focal.data.PromptDataModule`.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        system_prompt: str | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self.expect_files()
        expect_choice("data.on_bad_row", on_bad_row, ("error", "skip"))
        self.system_prompt, self.on_bad_row = system_prompt, on_bad_row

    def read_split(self, split: str, path: str) -> list[RubricRow]:
        """Read the rubrics of a split."""
        judge = RuleJudge()

        def check(criterion: Criterion) -> None:
            if is_rule(criterion):
                judge.validate(criterion)

        rows = read_rows(Path(path), self.on_bad_row, check=check if self.on_bad_row == "skip" else None)
        return [replace(row, messages=with_system(row.messages, self.system_prompt)) for row in rows]

    def setup(self, stage: str) -> None:
        """Read the files a stage needs, and pool the names of criteria that are too many to log one by one."""
        super().setup(stage)
        pooled = iter(pool_untagged([row for rows in self.rows.values() for row in rows]))
        self.rows = {split: [*itertools.islice(pooled, len(rows))] for split, rows in self.rows.items()}

    def make_prompts(self, split: str, rows: Sequence[RubricRow]) -> Prompts:
        """Make a batch of rows."""
        return prompts_of(rows)

    def level_keys(self) -> list[str]:
        """Return every criterion key of the rows read so far, sorted: the same list on every process."""
        criteria = (criterion for rows in self.rows.values() for row in rows for criterion in row.rubric.criteria)
        return sorted({level_key(criterion.name, criterion.tags) for criterion in criteria})

    def criterion_names(self) -> list[str]:
        """Return the criterion names of the rows read so far that can be followed one by one, sorted; the others are ``others``."""
        rows = [row for rows in self.rows.values() for row in rows]
        names = [name for row in rows for name in row.rubric.names]
        return sorted(few := {*few_of(names, len(rows), 120)}) + ["others"] * (not few >= {*names})
