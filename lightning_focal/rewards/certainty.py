"""The policy's own certainty as a score."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from lightning_focal.judges import Outcome, Verdict
from lightning_focal.rewards.answers import AnswerBatch, AnswerScores, Judged

__all__ = ["NegativeEntropy", "SelfCertainty"]


class CertaintyScores(AnswerScores):
    """A measure of certainty in nats, mapped to [0, 1] by a straight line from 0 to ``ceiling``, which rises or falls.

    Group advantages do not change under a straight line, but for the ``epsilon`` beside the standard deviation: they are those
    of the raw values as long as nothing is clamped (``certainty/clamped`` is the share that is). With an advantage that is not
    divided by the group's standard deviation the ceiling scales the signal.

    An empty response has no certainty and is masked.
    """

    criterion: ClassVar[str] = "certainty"
    quantity: ClassVar[str]
    rises: ClassVar[bool]

    def __init__(self, ceiling: float, **kwargs: Any) -> None:
        if not 0 < ceiling < math.inf:
            raise ValueError(f"`ceiling` must be a finite number of nats > 0, got {ceiling}")
        super().__init__(**kwargs)
        self.ceiling = ceiling

    def judge(self, batch: AnswerBatch) -> Judged:
        """See :class:`AnswerScores`."""
        certainty = {name: value.detach().double().cpu() for name, value in self.answerer.certainty(batch.rollouts).items()}
        nats = certainty[self.quantity]
        scores = nats / self.ceiling if self.rises else 1 - nats / self.ceiling
        measures = {f"certainty/{name}": certainty[name] for name in ("self_certainty", "entropy")}
        measures["certainty/clamped"] = ((scores < 0) | (scores > 1)).double().masked_fill(nats.isnan(), math.nan)
        groups = zip(nats.tolist(), scores.clamp(0, 1).tolist(), strict=True)
        return [[self._verdict(*pair) for pair in zip(*group, strict=True)] for group in groups], measures

    def _verdict(self, nats: float, score: float) -> Verdict:
        if math.isnan(nats):
            return Verdict(Outcome.NOT_APPLICABLE, reason="an empty response has no certainty")
        return Verdict(Outcome.GRADED, score, f"{self.quantity.replace('_', '-')} {nats:.3f} nats a token")


class SelfCertainty(CertaintyScores):
    r"""Self-certainty, ``KL(U || pi) = logsumexp(z) - mean(z) - ln|V|`` a token, mean over the response (arXiv:2508.00410, a baseline).

    The score is ``KL / ceiling``. The divergence has no upper bound, it grows with how far the unlikely tokens are down: about 10
    to 20 nats in language models. Values above the ceiling are clamped.

    Args:
        ceiling: nats that score 1; finite, > 0.
        **kwargs: see :class:`AnswerScores`; ``equivalence`` is that of the votes that are measured.
    """

    description: ClassVar[str] = "The policy is certain: far from the uniform distribution."
    quantity: ClassVar[str] = "self_certainty"
    rises: ClassVar[bool] = True

    def __init__(self, ceiling: float = 50.0, **kwargs: Any) -> None:
        super().__init__(ceiling, **kwargs)


class NegativeEntropy(CertaintyScores):
    """Minus the entropy of a token, mean over the response (arXiv:2508.00410, a baseline; the mean is ours).

    The score is ``1 - H / ceiling``. Entropy is at most ``ln|V|``; the default ceiling is that of 268 000 tokens, so nothing is
    ever clamped.

    Args:
        ceiling: nats that score 0; finite, > 0.
        **kwargs: see :class:`AnswerScores`; ``equivalence`` is that of the votes that are measured.
    """

    description: ClassVar[str] = "The policy is certain: low entropy."
    quantity: ClassVar[str] = "entropy"
    rises: ClassVar[bool] = False

    def __init__(self, ceiling: float = 12.5, **kwargs: Any) -> None:
        super().__init__(ceiling, **kwargs)
