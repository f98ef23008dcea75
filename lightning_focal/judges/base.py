"""What every judge takes and gives, whoever does the judging."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from lightning_focal.rubrics.criterion import Criterion
from lightning_focal.thoughts import Response, is_empty, split_thought
from lightning_focal.types import Message

__all__ = ["Judge", "JudgeRequest", "Outcome", "Verdict", "empty_verdict"]


class Outcome(StrEnum):
    """How a judgement came out; errors and what is not applicable become mask False, never a 0, which for a fault would be praise (ours)."""

    MET = "met"
    NOT_MET = "not_met"
    GRADED = "graded"
    NOT_APPLICABLE = "not_applicable"
    ERROR = "error"


@dataclass(frozen=True)
class Verdict:
    """What a judge says about one criterion of one response, and in ``reason`` what was measured or seen.

    ``value`` is the grade, between the criterion's ``low`` and ``high``; given with ``GRADED``, where it is finite, and with nothing else: else
    ``ValueError``.

    >>> Verdict(Outcome.NOT_MET, reason="71 words, at most 60 allowed").outcome.value
    'not_met'
    """

    outcome: Outcome
    value: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.outcome is Outcome.GRADED:
            if self.value is None or not math.isfinite(self.value):
                raise ValueError(f"`value` of a graded verdict must be a finite number, got {self.value!r}")
        elif self.value is not None:
            raise ValueError(f"`value` belongs to graded verdicts alone, got {self.value!r} with outcome {self.outcome.value!r}")

    @property
    def judged(self) -> bool:
        """True when the verdict counts: neither an error nor not applicable."""
        return self.outcome not in (Outcome.ERROR, Outcome.NOT_APPLICABLE)

    def met(self, criterion: Criterion) -> float | None:
        """How far ``criterion`` is met, in [0, 1]; None where it was not judged.

        ``(value - low) / (high - low)`` for a grade, clipped to [0, 1]; for a fault 1 = the fault is there (ours).

        >>> Verdict(Outcome.GRADED, 4.0).met(Criterion("tone", "Kind, from 1 to 5.", low=1, high=5))
        0.75
        """
        if not self.judged:
            return None
        if self.value is None:
            return float(self.outcome is Outcome.MET)
        return min(1.0, max(0.0, (self.value - criterion.low) / (criterion.high - criterion.low)))


def empty_verdict(criterion: Criterion, reason: str = "empty response") -> Verdict:
    """The verdict on an empty response, which scores 0 whoever judges: not met, and for a fault met (ours).

    >>> empty_verdict(Criterion("rude", "Is rude.", -1)).outcome.value
    'met'
    """
    return Verdict(Outcome.MET if criterion.is_fault else Outcome.NOT_MET, reason=reason)


@dataclass(frozen=True)
class JudgeRequest:
    """One response and what to judge it by.

    Args:
        messages: the chat that was answered.
        response: the whole response: data, never an instruction to the judge. Which part of it is judged says each criterion.
        criteria: at least one.
        thinks: a thought is told from the answer.
        repeat: number of the repetition, which a judge that remembers its verdicts judges by itself.
        said: what was said after ``messages`` where there were turns, ``response`` the last of them; none = one turn.

    >>> answer, thought = Criterion("short", "Is short."), Criterion("checks", "Checks itself.", scope="thought")
    >>> request = JudgeRequest((), "<think>4 + 4</think>8", (answer, thought))
    >>> request.text(answer), request.text(thought)
    ('8', '4 + 4')
    """

    messages: tuple[Message, ...]
    response: str
    criteria: tuple[Criterion, ...]
    thinks: bool = True
    repeat: int = 0
    said: tuple[Message, ...] = ()

    @cached_property
    def parts(self) -> Response:
        """Thought and answer."""
        return split_thought(self.response) if self.thinks else Response(None, self.response)

    def text(self, criterion: Criterion) -> str:
        """Return what ``criterion`` is about: answer, thought, the response with both as it was written, or all turns with who spoke."""
        if criterion.scope == "both":
            return self.response
        if criterion.scope == "conversation" and self.said:
            return "\n\n".join(map(self._turn, self.said))
        return self.parts.thought or "" if criterion.scope == "thought" else self.parts.answer

    def _turn(self, message: Message) -> str:
        own = message["role"] == "assistant" and self.thinks
        text = split_thought(message["content"]).answer if own else message["content"]
        return f"{message['role']}: {text.strip()}"

    def empty(self, criterion: Criterion) -> Verdict | None:
        """Return the verdict where there is nothing to judge, else None; see :func:`empty_verdict`."""
        if not is_empty(self.text(criterion)):
            return None
        if is_empty(self.response):
            return empty_verdict(criterion)
        if criterion.scope == "thought":
            return empty_verdict(criterion, "no thought")
        return empty_verdict(criterion, "no answer" if self.parts.finished else "no answer: the thought did not end")


class Judge(ABC):
    """Says how well responses meet their criteria.

    Attributes:
        whole_groups: it compares the responses to a prompt with each other: a part of :meth:`judge_stream` is one prompt's group.
    """

    whole_groups: bool = False

    def validate(self, criterion: Criterion) -> None:
        """Refuse, before training, a criterion this judge cannot judge: ``ValueError`` that starts with ``criterion.where``."""

    def prepare(self) -> None:
        """Find out, once before a run, whether verdicts can be had at all; raise what says why not. Most judges are always ready."""

    def overlaps(self, criterion: Criterion) -> bool:
        """Say whether ``criterion`` may be judged in another thread while a policy still decodes.

        No by default: a judge may compute on the same device, or hold what belongs to its thread. One that says yes takes requests by
        :meth:`judge_stream`.
        """
        return False

    def measures(self) -> dict[str, float]:
        """Return what the last call of :meth:`judge` took, by name: the same names after every call. Logged as ``stage/judge/<name>``."""
        return {}

    @abstractmethod
    def judge(self, requests: Sequence[JudgeRequest]) -> list[tuple[Verdict, ...]]:
        """Return one tuple of verdicts a request, in the order of its criteria; what cannot be judged is ``Outcome.ERROR``, never raised."""

    def judge_stream(self, parts: Iterable[Sequence[JudgeRequest]]) -> list[tuple[Verdict, ...]]:
        """Judge the requests of a batch as they come: ``parts`` may wait for the next. One part after another by default.

        Returns:
            One tuple of verdicts a request, in order, as :meth:`judge` would of all of them.
        """
        judged = [self.judge(part) for part in parts] or [self.judge([])]  # its measures are those of this batch
        return [row for rows in judged for row in rows]
