"""A controlled problem: criteria of known difficulty for a policy of known weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_focal.rewards.sources import ScoreSource
from lightning_focal.types import CriterionScores, Rollouts

__all__ = ["NINE_CHOICES", "TokenChoice", "TokenChoiceScores"]


@dataclass(frozen=True)
class TokenChoice:
    """A criterion met when the response token at ``position`` has an id in ``[first, last)``.

    A nearly uniform policy of vocabulary ``V`` meets it with probability ``(last - first) / V``: the difficulty is known.

    Args:
        name: of the criterion.
        position: of the token in the response, from 0.
        first: lowest id.
        last: one past the highest id.
        points: base weight.
    """

    name: str
    position: int
    first: int
    last: int
    points: float = 1.0

    def __post_init__(self) -> None:
        if self.position < 0 or not 0 <= self.first < self.last:
            raise ValueError(
                f"{self.name!r}: `position` must be >= 0 and 0 <= `first` < `last`, got {self.position}, {self.first}, {self.last}"
            )
        if not self.points > 0:
            raise ValueError(f"{self.name!r}: `points` must be > 0, got {self.points}")


NINE_CHOICES: tuple[TokenChoice, ...] = (
    # Starting rates over 259 tokens: 0.90 0.80 0.65 0.50 0.35 0.20 0.10 0.05 0.02.
    TokenChoice("r90", 0, 0, 233, points=2.0),
    TokenChoice("r80", 1, 0, 207, points=3.0),
    TokenChoice("r65", 2, 0, 168, points=2.0),
    TokenChoice("r50", 3, 0, 130, points=1.0),
    TokenChoice("r35", 4, 0, 91, points=2.0),
    TokenChoice("r20", 1, 204, 256, points=1.0),  # shares 3 tokens with r80: both can be met, yet they pull apart
    TokenChoice("r10", 5, 0, 26, points=3.0),
    TokenChoice("r05", 2, 168, 181, points=2.0),  # shares none with r65: one excludes the other
    TokenChoice("r02", 0, 231, 236, points=1.0),  # shares 2 tokens with r90
)
"""Nine criteria on six tokens; two pairs pull against each other, one pair excludes itself."""


class TokenChoiceScores(ScoreSource):
    """Scores the tokens of a response against :class:`TokenChoice` criteria, the same for every prompt (ours).

    Made for :func:`~lightning_focal.models.byte_tokenizer` (259 tokens) and responses of six tokens; a token that is missing,
    because the response ended early, meets nothing.

    Args:
        choices: the criteria; :data:`NINE_CHOICES` by default.
    """

    def __init__(self, choices: Sequence[TokenChoice] | None = None) -> None:
        self.choices = tuple(choices) if choices is not None else NINE_CHOICES
        if not self.choices or len({choice.name for choice in self.choices}) != len(self.choices):
            raise ValueError(f"`choices` must have unique names and at least one entry, got {[c.name for c in self.choices]}")

    def level_keys(self) -> list[str]:
        """See :class:`ScoreSource`."""
        return [choice.name for choice in self.choices]

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        """See :class:`ScoreSource`."""
        ids = rollouts.response_ids.masked_fill(~rollouts.response_mask, -1)  # a token that is missing is in no range
        scores = ids.new_zeros((*ids.shape[:2], len(self.choices)), dtype=torch.float32)
        for c, choice in enumerate(self.choices):
            if choice.position < ids.shape[2]:
                token = ids[..., choice.position]
                scores[..., c] = (token >= choice.first) & (token < choice.last)
        points = torch.tensor([choice.points for choice in self.choices], device=ids.device)
        weights = (points / points.sum()).expand(len(rollouts.prompts), -1).contiguous()
        names = (tuple(self.level_keys()),) * len(rollouts.prompts)
        return CriterionScores(scores, torch.ones_like(scores, dtype=torch.bool), weights, names)
