"""What an empty response is worth: nothing, whoever judges."""

from __future__ import annotations

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.judges.rules.view import ResponseView
from lightning_focal.rubrics.criterion import Criterion

__all__ = ["empty_verdict", "is_empty"]

_MET = Verdict(Outcome.MET, None, "empty response")
_NOT_MET = Verdict(Outcome.NOT_MET, None, "empty response")


def is_empty(response: str) -> bool:
    r"""True when nothing visible was written.

    >>> is_empty(" \n"), is_empty(".")
    (True, False)
    """
    return ResponseView((), response).is_empty


def empty_verdict(criterion: Criterion) -> Verdict:
    """The verdict that scores 0: not met, and for a fault met (ours).

    >>> empty_verdict(Criterion("rude", "Is rude.", -1)).outcome.value
    'met'
    """
    return _MET if criterion.is_fault else _NOT_MET
