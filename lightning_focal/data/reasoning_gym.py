"""Any task family of reasoning-gym as a LightningDataModule, each question in one or two wordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_focal.data.module import PromptDataModule, with_system
from lightning_focal.data.pairs import BOXED_ANSWER
from lightning_focal.data.tasks import TaskGrader, draw_questions, make_task
from lightning_focal.data.wordings import TASK, WORDINGS, reword, worked_steps
from lightning_focal.functional.choices import expect_choice
from lightning_focal.types import Message, Prompts

__all__ = ["ReasoningGymData", "TaskRow"]

REPHRASED = "Here is something to find out.\n\n{question}"
"""What a rephrasing looks like where a task offers no second wording."""


@dataclass(frozen=True)
class TaskRow:
    """A question: the chats that ask the original and its rephrasing, the task's own answer and scorer, and a demonstration."""

    id: str
    chats: tuple[tuple[Message, ...], tuple[Message, ...]]
    answer: str | None
    grader: TaskGrader
    response: str | None


class ReasoningGymData(PromptDataModule):
    r"""Questions that the package reasoning-gym generates, scored by the task they come from.

    Splits share no question text, whatever the seeds and sizes: see :func:`~lightning_focal.data.split_of`. A training batch of
    ``pairs`` holds both wordings of each question, on one process: originals first, then the rephrasings in the same order. An
    answer that the task's scorer fails on is a failed judgement, never a wrong answer.

    Args:
        task: family of reasoning-gym, ``chain_sum`` for example.
        task_args: arguments of the family, ``{min_terms: 2, max_terms: 2}`` for example.
        train: number of training questions; 0 = none.
        val: number of held-out questions, answered before, during and after training; 0 = none.
        test: number of questions of ``lightning_focal test``.
        skip_train: leave out so many training questions first, those that a warm start with the same `seed` has seen, say.
        pairs: train on both wordings of each question. False: on the originals alone.
        val_view: which wording held-out questions have: 0 the original, 1 the rephrasing, ``both``.
        wording: of the original, see :data:`~lightning_focal.data.WORDINGS`; ``task`` = the task's own words.
        second_wording: of the rephrasing; the task's first that knows the question by default. Where it has none, the
            question stays in the words of the original and `second_template` is put around it.
        template: around the original, with ``{question}`` in it.
        second_template: around the rephrasing; by default ``{question}`` where the words are others than the original's.
        response: a demonstration for supervised learning (``extra[i]["response"]``), with ``{answer}`` in it, and ``{steps}`` for
            the way there (chains of sums alone).
        partial_marks: let graders give what a task gives for an answer that is close: sums, for one, give half of the marks for
            17 where 7 is right. False: 1 for full marks, else 0.
        system_prompt: put before every question; None = nothing.
        eval_batch_size: questions answered at once in validation, test and prediction, over all processes.
        **kwargs: of :class:`~lightning_focal.data.PromptDataModule`.
    """

    unit = "questions"

    def __init__(
        self,
        task: str,
        task_args: dict[str, Any] | None = None,
        train: int = 1000,
        val: int = 64,
        test: int = 64,
        skip_train: int = 0,
        pairs: bool = True,
        val_view: Literal[0, 1, "both"] = 0,
        wording: str = TASK,
        second_wording: str | None = None,
        template: str = "{question}",
        second_template: str | None = None,
        response: str = r"The answer is \boxed{{answer}}.",
        partial_marks: bool = True,
        system_prompt: str | None = BOXED_ANSWER,
        eval_batch_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **kwargs)
        for name, size in {"train": train, "val": val, "test": test, "skip_train": skip_train}.items():
            if size < 0:
                raise ValueError(f"`data.{name}` must be >= 0, got {size}")
        self.sizes, self.skip_train = {"train": train, "val": val, "test": test, "predict": val}, skip_train
        self.files = {split: task if size else None for split, size in self.sizes.items()}
        self.expect_files()
        expect_choice("data.val_view", val_view, (0, 1, "both"))
        for name, text in {"template": template, "second_template": second_template}.items():
            if text is not None and "{question}" not in text:
                raise ValueError(f"`data.{name}` must have {{question}} in it, got {text!r}")
        if "{answer}" not in response:
            raise ValueError(f"`data.response` must have {{answer}} in it, got {response!r}")
        self.task, self.task_args = task, dict(task_args or {})
        make_task(task, self.task_args)  # a wrong name or argument is said before anything is loaded
        wordings = (TASK, *WORDINGS.get(task, {}))
        expect_choice("data.wording", wording, wordings)
        expect_choice("data.second_wording", second_wording, (None, *wordings))
        self.pairs, self.val_view = pairs, val_view
        self.wording, self.second_wording = wording, second_wording
        self.template, self.second_template = template, second_template
        self.response, self.system_prompt, self.partial_marks = response, system_prompt, partial_marks

    def setup(self, stage: str) -> None:
        """Draw the questions that a stage needs."""
        needed = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}[stage]
        if not self.sizes[needed]:
            raise ValueError(f"`data.{needed.replace('predict', 'val')}` must be >= 1 for `lightning_focal {stage}`, got 0")
        super().setup(stage)

    def read_split(self, split: str, path: str) -> list[TaskRow]:
        """Draw the questions of a split; the same ones on every process."""
        source, skipped = "val" if split == "predict" else split, self.skip_train if split == "train" else 0
        entries = draw_questions(path, self.task_args, self.seed, source, skipped + self.sizes[split])
        return [self._row(f"{path}/{source}/{n}", entry) for n, entry in enumerate(entries) if n >= skipped]

    def make_prompts(self, split: str, rows: Sequence[TaskRow]) -> Prompts:
        """Make a batch of rows."""
        both = self.pairs if split == "train" else self.val_view == "both"
        views = (0, 1) if both else (0,) if split == "train" else (int(self.val_view),)
        shown = [(row, view) for view in views for row in rows]
        return Prompts(
            ids=tuple(f"{row.id}/rephrased" if view else row.id for row, view in shown),
            messages=tuple(row.chats[view] for row, view in shown),
            answers=tuple(row.answer for row, _ in shown),
            extra=tuple({"response": row.response} for row, _ in shown),
            questions=tuple(row.id for row, _ in shown),
            views=tuple(view for _, view in shown),
            graders=tuple(row.grader for row, _ in shown),
        )

    def _row(self, name: str, entry: Mapping[str, Any]) -> TaskRow:
        first = reword(self.task, entry["question"], self.wording) or ""
        second = reword(self.task, entry["question"], self.second_wording) or first
        template = self.second_template or (REPHRASED if second == first else "{question}")
        original, rephrased = self.template.replace("{question}", first), template.replace("{question}", second)
        if self.pairs and original == rephrased:
            both = "`data.second_wording` and `data.second_template`"
            raise ValueError(f"{both} must change a question, got {original!r} both times")
        answer = None if entry["answer"] is None else str(entry["answer"])
        return TaskRow(
            id=name,
            chats=(self._chat(original), self._chat(rephrased)),
            answer=answer,
            grader=TaskGrader(self.task, self.task_args, entry, self.partial_marks),
            response=None if answer is None else self._demonstration(entry["question"], answer),
        )

    def _chat(self, text: str) -> tuple[Message, ...]:
        return with_system(({"role": "user", "content": text},), self.system_prompt or None)

    def _demonstration(self, question: str, answer: str) -> str:
        steps = worked_steps(question) if "{steps}" in self.response else ""
        if steps is None:
            raise ValueError(f"`data.response` has {{steps}} in it, which are known of chains of sums alone, not of {question!r}")
        return self.response.replace("{steps}", steps).replace("{answer}", answer)
