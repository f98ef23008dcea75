r"""Answers: the one a response puts into ``\boxed{...}``, and the majority vote over those of one group."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Vote", "extract_boxed", "majority_vote"]

_OPENING = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}``, braces matched (arXiv:2508.00410).

    A brace after a backslash is a printed one and closes nothing. A last box that is never closed is an answer that was cut off:
    it gives None, not the box before it. White space may stand before the brace, as TeX allows; ``\boxed 5`` and ``\fbox{5}`` are
    not read. Takes time linear in the length of the text.

    Returns:
        The content as it stands, maybe empty, or None where there is no closed last box.

    >>> extract_boxed(r"First \boxed{1}, no: $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> extract_boxed(r"\boxed{\left\{ 3 \right.}")
    '\\left\\{ 3 \\right.'
    >>> extract_boxed(r"\boxed{1} or \boxed{2") is None
    True
    """
    opening, end = None, len(text)
    while opening is None:
        end = text.rfind("\\boxed", 0, end)
        if end == -1:
            return None
        opening = _OPENING.match(text, end)
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[opening.end() : brace.start()]
    return None


@dataclass(frozen=True)
class Vote:
    """How a vote came out.

    Args:
        label: the winning answer, stripped, or None where nobody voted.
        count: votes for it.
        share: ``count`` / number of votes cast, in [0, 1]; blank answers are no votes. 0.0 where nobody voted.
        distinct: number of distinct answers.
    """

    label: str | None
    count: int
    share: float
    distinct: int


def majority_vote(answers: Sequence[str | None], equivalent: Callable[[str, str], bool] | None = None) -> Vote:
    r"""Find the most frequent answer; on a tie, the one seen first (arXiv:2508.00410; tie rule and blanks: ours).

    Answers are put into classes before they are counted: in the order of ``answers``, each joins the first class to whose first
    member it is equivalent, or opens one. The result depends on nothing else, also where ``equivalent`` is not transitive.

    Args:
        answers: one a rollout, in rollout order. None (could not be extracted) and blank ones do not vote.
        equivalent: says whether two stripped answers are the same, asked as ``(first member of a class, answer)``; equal strings
            always are, and are not asked about. None = equal strings alone, so 0.5 and 1/2 are two answers.

    Returns:
        The vote; its label is the first member of the largest class. ``Vote(None, 0, 0.0, 0)`` where nobody voted.

    Raises:
        TypeError: if ``answers`` is one string, or holds something other than strings and None.

    >>> majority_vote(["7", None, "0.5", " 7", "1/2", "\\frac{1}{2}"])
    Vote(label='7', count=2, share=0.4, distinct=4)
    >>> halves = {"0.5", "1/2", "\\frac{1}{2}"}
    >>> majority_vote(["7", None, "0.5", " 7", "1/2", "\\frac{1}{2}"], lambda a, b: {a, b} <= halves)
    Vote(label='0.5', count=3, share=0.6, distinct=2)
    """
    if isinstance(answers, str):
        raise TypeError(f"`answers` must be a sequence of answers, got one string {answers[:60]!r}")
    counts: Counter[str] = Counter()  # votes by first member, in rollout order
    class_of: dict[str, str] = {}
    for i, answer in enumerate(answers):
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"`answers[{i}]` must be a string or None, got {type(answer).__name__}")
        answer = (answer or "").strip()
        if not answer:
            continue
        if answer not in class_of:
            known = (first for first in counts if equivalent is not None and equivalent(first, answer))
            class_of[answer] = next(known, answer)
        counts[class_of[answer]] += 1
    if not counts:
        return Vote(None, 0, 0.0, 0)
    label = max(counts, key=counts.__getitem__)  # the first of equals: classes stand in the order in which they were opened
    return Vote(label, counts[label], counts[label] / counts.total(), len(counts))
