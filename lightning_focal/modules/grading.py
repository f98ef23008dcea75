"""How well a policy answers questions that bring their own scorer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from lightning_focal.functional import majority_vote
from lightning_focal.modules.measures import Means, add_thoughts
from lightning_focal.rewards.answers import AnswerBatch
from lightning_focal.types import Prompts, Rollouts

__all__ = ["VIEWS", "add_grades", "first_questions"]

VIEWS = ("original", "rephrased")
"""What the views of a question are called where they are logged."""


def first_questions(prompts: Prompts, count: int) -> Prompts:
    """Return the prompts of the first ``count`` questions, all views of each.

    >>> prompts = Prompts(("a", "b", "a/2", "b/2"), ((),) * 4, questions=("a", "b", "a", "b"), views=(0, 0, 1, 1))
    >>> first_questions(prompts, 1).ids
    ('a', 'a/2')
    """
    questions = prompts.questions or prompts.ids
    wanted = set(list(dict.fromkeys(questions))[:count])
    rows = [row for row, question in enumerate(questions) if question in wanted]
    columns: dict[str, Any] = {field.name: getattr(prompts, field.name) for field in fields(prompts)}
    return Prompts(**{name: tuple(column[row] for row in rows) if column else () for name, column in columns.items()})


def add_grades(means: Means, rollouts: Rollouts) -> list[str]:
    """Add what the responses of a held-out batch are worth.

    ``val/accuracy/<view>`` is the share of responses whose answer the question's own scorer gives full marks,
    ``val/majority/<view>`` the share of questions whose most frequent answer gets them; ``val/response/...`` their mean length in tokens, that
    of their thoughts, and the shares that were cut off, that hold no answer and that have a boxed one. Prompts without a scorer count in
    the latter alone. Answers are extracted, voted on (as mathematics) and graded as in training, see
    :class:`~lightning_focal.rewards.answers.AnswerBatch`; one that the scorer fails on is left out, never counted as wrong.

    Returns:
        What scorers failed on, in words.
    """
    prompts, device = rollouts.prompts, rollouts.response_ids.device
    batch = AnswerBatch(rollouts)
    means.add("val/response/length", rollouts.lengths)
    means.add("val/response/truncated", rollouts.truncated)
    add_thoughts(means, "val", rollouts)
    means.add("val/response/boxed", torch.tensor(batch.boxed, device=device))
    graders, views = prompts.graders or (None,) * len(prompts), prompts.views or (0,) * len(prompts)
    for view, name in enumerate(VIEWS):
        rows = [row for row, grader in enumerate(graders) if grader is not None and views[row] == view]
        right = torch.tensor([[batch.right(row, answer) for answer in batch.answers[row]] for row in rows], device=device)
        labels = [majority_vote(batch.answers[row], batch.equivalent).label for row in rows]
        voted = torch.tensor([batch.right(row, label) for row, label in zip(rows, labels, strict=True)], device=device)
        means.add(f"val/accuracy/{name}", right, ~right.isnan())
        means.add(f"val/majority/{name}", voted, ~voted.isnan())
    return batch.failures
