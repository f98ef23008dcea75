"""The policy's own certainty as a score."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lightning_focal.judges import Outcome, Verdict
from lightning_focal.rewards.answers import AnswerBatch, AnswerScores, EquivalenceKind

__all__ = ["NegativeEntropy", "SelfCertainty"]


class CertaintyScores(AnswerScores):
    """A measure of certainty in nats, mapped to [0, 1] by a straight line.

    Group advantages do not change under a straight line that rises, but for the ``epsilon`` beside the standard deviation: they
    are those of the raw values as long as nothing is clamped (``certainty/clamped`` is the share that is). With an advantage
    that is not divided by the group's standard deviation the ceiling scales the signal.

    An empty response has no certainty and is masked.
    """

    criterion: ClassVar[str] = "certainty"
    quantity: ClassVar[str]

    def __init__(self, ceiling: float, equivalence: EquivalenceKind = "math", format: float = 0.0, length: float = 0.0) -> None:
        if not 0 < ceiling < math.inf:
            raise ValueError(f"`ceiling` must be a finite number of nats > 0, got {ceiling}")
        super().__init__(equivalence, format, length)
        self.ceiling = ceiling

    @abstractmethod
    def line(self, nats: Tensor) -> Tensor:
        """Map nats to a score, 0 .. 1 below the ceiling, the more certain the larger."""

    def judge(self, batch: AnswerBatch) -> tuple[list[list[Verdict]], Mapping[str, Tensor]]:
        """See :class:`AnswerScores`."""
        certainty = {name: value.detach().double().cpu() for name, value in self.answerer.certainty(batch.rollouts).items()}
        nats = certainty[self.quantity]
        scores = self.line(nats)
        clamped = ((scores < 0) | (scores > 1)).double().masked_fill(nats.isnan(), torch.nan)
        verdicts = [
            [self._verdict(n, s) for n, s in zip(*rows, strict=True)] for rows in zip(nats.tolist(), scores.tolist(), strict=True)
        ]
        return verdicts, {
            "certainty/self_certainty": certainty["self_certainty"],
            "certainty/entropy": certainty["entropy"],
            "certainty/clamped": clamped,
        }

    def _verdict(self, nats: float, score: float) -> Verdict:
        words = f"{self.quantity.replace('_', '-')} {nats:.3f} nats a token"
        if math.isnan(nats):
            return Verdict(Outcome.NOT_APPLICABLE, reason="an empty response has no certainty")
        return Verdict(Outcome.GRADED, min(1.0, max(0.0, score)), words)


class SelfCertainty(CertaintyScores):
    r"""Self-certainty, ``KL(U || pi) = logsumexp(z) - mean(z) - ln|V|`` a token, mean over the response (arXiv:2508.00410, a baseline).

    The score is ``KL / ceiling``. The divergence has no upper bound, it grows with how far the unlikely tokens are down: about 10
    to 20 nats in language models. Values above the ceiling are clamped.

    Args:
        ceiling: nats that score 1.
        equivalence: of the votes that are measured, see :class:`AnswerScores`.
        format: see :class:`AnswerScores`.
        length: see :class:`AnswerScores`.

    Raises:
        ValueError: for a ceiling that is not a finite number > 0.
    """

    description: ClassVar[str] = "The policy is certain: far from the uniform distribution."
    quantity: ClassVar[str] = "self_certainty"

    def __init__(
        self, ceiling: float = 50.0, equivalence: EquivalenceKind = "math", format: float = 0.0, length: float = 0.0
    ) -> None:
        super().__init__(ceiling, equivalence, format, length)

    def line(self, nats: Tensor) -> Tensor:
        """See :class:`CertaintyScores`."""
        return nats / self.ceiling


class NegativeEntropy(CertaintyScores):
    """Minus the entropy of a token, mean over the response (arXiv:2508.00410, a baseline; the mean is ours).

    The score is ``1 - H / ceiling``. Entropy is at most ``ln|V|``; the default ceiling is that of 268 000 tokens, so nothing is
    ever clamped.

    Args:
        ceiling: nats that score 0.
        equivalence: of the votes that are measured, see :class:`AnswerScores`.
        format: see :class:`AnswerScores`.
        length: see :class:`AnswerScores`.

    Raises:
        ValueError: for a ceiling that is not a finite number > 0.
    """

    description: ClassVar[str] = "The policy is certain: low entropy."
    quantity: ClassVar[str] = "entropy"

    def __init__(
        self, ceiling: float = 12.5, equivalence: EquivalenceKind = "math", format: float = 0.0, length: float = 0.0
    ) -> None:
        super().__init__(ceiling, equivalence, format, length)

    def line(self, nats: Tensor) -> Tensor:
        """See :class:`CertaintyScores`."""
        return 1 - nats / self.ceiling
