"""Any task family of reasoning-gym as a LightningDataModule, each question in one or two wordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_focal.data.module import PromptDataModule
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
    """A question in both wordings.

    Args:
        id: of the question.
        chats: the original and its rephrasing, system message included.
        answer: the task's own.
        grader: the task's own scorer.
        response: a demonstration.
    """

    id: str
    chats: tuple[tuple[Message, ...], tuple[Message, ...]]
    answer: str | None
    grader: TaskGrader
    response: str | None


class ReasoningGymData(PromptDataModule):
    r"""Questions that the package reasoning-gym generates, scored by the task they come from.

    Splits share no question text, whatever the seeds and sizes: see :func:`~lightning_focal.data.split_of`. A training batch of
    ``pairs`` holds both wordings of each question, on one process: originals first, then the rephrasings in the same order.

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
        batch_size: questions in a training step, over all processes; of pairs, both wordings of each.
        eval_batch_size: questions answered at once in validation, test and prediction, over all processes.
        max_prompt_tokens: longest prompt, in tokens of the policy's tokenizer, chat template included.
        on_long_prompt: ``drop`` leaves longer ones out, both wordings, and counts them; ``error`` stops.
        shuffle: permute the training questions anew each epoch.
        seed: of the questions and of that permutation; that of the run by default.

    Attributes:
        dropped: number of questions left out as too long, by split.
    """

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
        batch_size: int = 4,
        eval_batch_size: int = 64,
        max_prompt_tokens: int = 512,
        on_long_prompt: Literal["drop", "error"] = "drop",
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        sizes = {"train": train, "val": val, "test": test}
        for name, size in {**sizes, "skip_train": skip_train}.items():
            if size < 0:
                raise ValueError(f"`data.{name}` must be >= 0, got {size}")
        super().__init__(
            {split: task if sizes[split] else None for split in sizes} | {"predict": task if val else None},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_prompt_tokens=max_prompt_tokens,
            on_long_prompt=on_long_prompt,
            limit_train=None,
            limit_val=None,
            shuffle=shuffle,
            seed=seed,
        )
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
        self.sizes, self.skip_train = {**sizes, "predict": val}, skip_train
        self.pairs, self.val_view = pairs, val_view
        self.wording, self.second_wording = wording, second_wording
        self.template, self.second_template = template, second_template
        self.response, self.system_prompt, self.partial_marks = response, system_prompt, partial_marks
        self.unit = "questions"

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
        views = self._views(split)
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

    def chats(self, split: str, row: TaskRow) -> Sequence[Sequence[Message]]:
        """Return the chats of a row that are put to the policy."""
        return [row.chats[view] for view in self._views(split)]

    def _views(self, split: str) -> tuple[int, ...]:
        if split == "train":
            return (0, 1) if self.pairs else (0,)
        return (0, 1) if self.val_view == "both" else (int(self.val_view),)

    def _row(self, name: str, entry: Mapping[str, Any]) -> TaskRow:
        first = reword(self.task, entry["question"], self.wording) or ""
        second = reword(self.task, entry["question"], self.second_wording) or first
        template = self.second_template or (REPHRASED if second == first else "{question}")
        texts = self.template.replace("{question}", first), template.replace("{question}", second)
        if self.pairs and texts[0] == texts[1]:
            raise ValueError(
                f"`data.second_wording` and `data.second_template` must change a question, got {texts[0]!r} both times"
            )
        answer = None if entry["answer"] is None else str(entry["answer"])
        return TaskRow(
            id=name,
            chats=(self._chat(texts[0]), self._chat(texts[1])),
            answer=answer,
            grader=TaskGrader(self.task, self.task_args, entry, self.partial_marks),
            response=None if answer is None else self._demonstration(entry["question"], answer),
        )

    def _chat(self, text: str) -> tuple[Message, ...]:
        question: Message = {"role": "user", "content": text}
        return ({"role": "system", "content": self.system_prompt}, question) if self.system_prompt else (question,)

    def _demonstration(self, question: str, answer: str) -> str:
        response = self.response
        if "{steps}" in response:
            steps = worked_steps(question)
            if steps is None:
                raise ValueError(
                    f"`data.response` has {{steps}} in it, which are known of chains of sums alone, not of {question!r}"
                )
            response = response.replace("{steps}", steps)
        return response.replace("{answer}", answer)
