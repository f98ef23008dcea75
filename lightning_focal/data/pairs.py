"""Questions and their rephrasings as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_focal.data.module import PromptDataModule, with_system
from lightning_focal.data.pair_files import PairRow, read_pairs, read_questions
from lightning_focal.functional.choices import expect_choice
from lightning_focal.types import Prompts

__all__ = ["BOXED_ANSWER", "PairDataModule", "prompts_of_pairs"]

BOXED_ANSWER = "Please reason step by step, and put your final answer within \\boxed{}."
"""System message that asks for what answers are extracted from."""


def prompts_of_pairs(rows: Sequence[PairRow], pairs: bool = True, system_prompt: str | None = None) -> Prompts:
    r"""Make a batch of rows.

    Args:
        rows: ``P`` questions.
        pairs: take both sides, ``2P`` prompts: originals first, then the rephrasings in the same order. False: the originals.
        system_prompt: put before every chat that does not open with a system message; None = nothing.

    Returns:
        The prompts. Of a pair, ``questions`` is the id of the row, ``views`` 0 and 1, both have the row's answer, and the second
        one's id is ``<id>/rephrased``.

    >>> row = PairRow("a", "1+1?", ({"role": "user", "content": "1+1?"},), ({"role": "user", "content": "One and one?"},), "2")
    >>> batch = prompts_of_pairs([row])
    >>> batch.ids, batch.views, batch.partners, batch.answers
    (('a', 'a/rephrased'), (0, 1), (1, 0), ('2', '2'))
    """
    ids, chats, sides = [row.id for row in rows], [row.messages for row in rows], 1
    if pairs:
        ids += [f"{row.id}/rephrased" for row in rows]
        chats += [row.rephrased or () for row in rows]
        sides = 2
    return Prompts(
        ids=tuple(ids),
        messages=tuple(with_system(chat, system_prompt) for chat in chats),
        answers=tuple(row.answer for row in rows) * sides,
        extra=tuple(row.extra for row in rows) * sides,
        questions=tuple(row.id for row in rows) * 2 if pairs else (),
        views=(0,) * len(rows) + (1,) * len(rows) if pairs else (),
    )


class PairDataModule(PromptDataModule):
    r"""Questions with a gold answer where known, and their rephrasings, from files whose layout is recognised.

    A training batch holds both views of each question, on one process; held-out batches hold the originals.

    Args:
        train: file of training questions (see :func:`~lightning_focal.data.read_pairs` for layouts); None = no training.
        train_rephrased: file of their rephrasings, aligned with `train` row by row; None = they stand in `train`.
        val: held-out questions, answered before, during and after training; of pairs, the originals.
        test: questions of ``lightning_focal test``; ``val`` by default.
        predict: questions of ``lightning_focal predict``; ``val`` by default.
        pairs: train on both views of each question. False: on the originals alone; rephrasings are not read.
        system_prompt: put before every chat that does not open with a system message of its own; None = nothing.
        on_bad_row: ``error`` stops at a malformed row, ``skip`` leaves it out and counts it.
        **kwargs: of :class:`~lightning_focal.data.PromptDataModule`.
    """

    unit = "questions"

    def __init__(
        self,
        train: str | None = None,
        train_rephrased: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        pairs: bool = True,
        system_prompt: str | None = BOXED_ANSWER,
        on_bad_row: Literal["error", "skip"] = "error",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.files = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self.expect_files()
        if train_rephrased is not None and train is None:
            raise ValueError(f"`data.train_rephrased` needs `data.train`, the originals, got {train_rephrased!r} alone")
        expect_choice("data.on_bad_row", on_bad_row, ("error", "skip"))
        self.train_rephrased, self.pairs = train_rephrased, pairs
        self.system_prompt, self.on_bad_row = system_prompt, on_bad_row

    def read_split(self, split: str, path: str) -> list[PairRow]:
        """Read the questions of a split, with their rephrasings for training on pairs."""
        for name, file in {split: path, "train_rephrased": self.train_rephrased if split == "train" else None}.items():
            if file is not None and not Path(file).is_file():
                raise FileNotFoundError(f"`data.{name}` must name an existing file, got {file!r} (looked in {Path.cwd()})")
        if self.pairs and split == "train":
            return read_pairs(path, self.train_rephrased, self.on_bad_row)
        return read_questions(path, self.on_bad_row)

    def make_prompts(self, split: str, rows: Sequence[PairRow]) -> Prompts:
        """Make a batch of rows."""
        return prompts_of_pairs(rows, self.pairs and split == "train", self.system_prompt)
