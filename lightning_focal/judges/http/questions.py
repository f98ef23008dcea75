"""A batch of requests as questions: one for each criterion, each asked once, however often it stands there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_focal.judges.base import JudgeRequest, Outcome, Verdict
from lightning_focal.judges.empty import empty_verdict, is_empty
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["Batch", "Question"]

_NOT_REACHED = "the batch's time was over before it was asked"


@dataclass(frozen=True)
class Question:
    """One criterion of one response.

    Args:
        key: what a verdict is remembered under.
        criterion: which.
        request: the place of its request in the batch.
    """

    key: bytes
    criterion: Criterion
    request: int


@dataclass
class Batch:
    """Requests and what is known of them so far.

    Args:
        requests: as they were handed in.
        identity: who judges: its name, its settings, the words around the data.

    Attributes:
        verdicts: by key.
        reasons: why there is none, by key.
    """

    requests: Sequence[JudgeRequest]
    identity: str
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)
    reasons: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keys: list[list[bytes]] = []
        self._questions: dict[bytes, Question] = {}
        for place, request in enumerate(self.requests):
            said = json.dumps([self.identity, [[m["role"], m["content"]] for m in request.messages], request.response])
            about = hashlib.sha256(said.encode())
            keys = []
            empty = is_empty(request.response)
            for criterion in request.criteria:
                asked = hashlib.sha256(json.dumps(_asked(criterion)).encode()).digest()
                key = hashlib.sha256(about.digest() + asked).digest()
                keys.append(key)
                self._questions.setdefault(key, Question(key, criterion, place))
                if empty:
                    self.verdicts[key] = empty_verdict(criterion)
            self._keys.append(keys)

    @property
    def open(self) -> list[Question]:
        """Questions without a verdict, in order."""
        return [question for key, question in self._questions.items() if key not in self.verdicts]

    def sheets(self, per: str) -> list[list[Question]]:
        """The open questions as they are asked: those of a response together, or each by itself (``per="criterion"``)."""
        if per == "criterion":
            return [[question] for question in self.open]
        together: dict[int, list[Question]] = {}
        for question in self.open:
            together.setdefault(question.request, []).append(question)
        return list(together.values())

    def answers(self) -> list[tuple[Verdict, ...]]:
        """One verdict a criterion; what has none is an error with its reason."""
        return [tuple(self._answer(key) for key in keys) for keys in self._keys]

    def _answer(self, key: bytes) -> Verdict:
        return self.verdicts.get(key) or Verdict(Outcome.ERROR, reason=self.reasons.get(key, _NOT_REACHED))


def _asked(criterion: Criterion) -> list[str | float | bool]:
    """What of a criterion a judge is shown, and what an empty response makes of it."""
    return [criterion.description.strip() or criterion.name, criterion.low, criterion.high, criterion.is_fault]
