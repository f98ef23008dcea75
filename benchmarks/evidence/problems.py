"""Six rubrics of different kinds for a policy that starts out uniform: how often each criterion is met at first is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_focal.rewards import NINE_CHOICES, ScoreSource, TokenChoice
from lightning_focal.types import CriterionScores, Rollouts

VOCABULARY = 259
"""Tokens of the byte tokenizer."""


@dataclass(frozen=True)
class Count:
    """A criterion met by at least ``least`` tokens of the response with an id in ``[first, last)``: several of them share a cause."""

    name: str
    first: int
    last: int
    least: int
    points: float = 1.0


@dataclass(frozen=True)
class Problem:
    """A rubric.

    Args:
        criteria: what is looked at.
        tokens: of a response.
        flips: share of verdicts on a criterion that the training judge turns round; held-out scores are never turned round.
        impossible: criteria that no response can meet; they are left out of the worst criterion.
        says: what kind of rubric this is.
    """

    criteria: tuple[TokenChoice | Count, ...]
    tokens: int
    says: str
    flips: Mapping[str, float] = field(default_factory=dict)
    impossible: tuple[str, ...] = ()


def _apart(rates: Mapping[str, float], points: Mapping[str, float] | None = None) -> tuple[TokenChoice, ...]:
    """Criteria on a token each, met at these rates by a uniform policy."""
    return tuple(
        TokenChoice(name, place, 0, max(1, round(rate * VOCABULARY)), (points or {}).get(name, 1.0))
        for place, (name, rate) in enumerate(rates.items())
    )


_RATES = {"r90": 0.9, "r80": 0.8, "r65": 0.65, "r50": 0.5, "r35": 0.35, "r20": 0.2, "r10": 0.1, "r05": 0.05, "r02": 0.02}
_POINTS = {choice.name: choice.points for choice in NINE_CHOICES}
_NINE = _apart(_RATES, _POINTS)

PROBLEMS = {
    "heterogeneous": Problem(_NINE, 9, "nine criteria met at .90 to .02, each on a token of its own"),
    "alike": Problem(
        _apart({f"r{round(100 * rate)}": rate for rate in (0.7, 0.64, 0.58, 0.52, 0.46, 0.4, 0.35, 0.3)}),
        8,
        "eight criteria met at .70 to .30",
    ),
    "conflicting": Problem(tuple(NINE_CHOICES), 6, "the nine rates on six tokens: two pairs pull apart, one excludes itself"),
    "impossible": Problem(
        (*_NINE[:8], TokenChoice("never", 40, 0, VOCABULARY, 1.0)), 9, "one of nine criteria cannot be met", impossible=("never",)
    ),
    "noisy": Problem(
        _NINE,
        9,
        "a tenth of all training verdicts is turned round, on one criterion four tenths",
        flips={name: 0.4 if name == "r50" else 0.1 for name in _RATES},
    ),
    "tied": Problem(
        (*_apart(dict(list(_RATES.items())[2:8]), _POINTS), *(Count(f"many{least}", 180, 240, least) for least in (3, 5, 7))),
        12,
        "three of nine criteria count the same tokens, as criteria tied to length do",
    ),
}


class Verdicts(ScoreSource):
    """Scores of a :class:`Problem`, the same rubric for every prompt.

    Args:
        problem: whose criteria.
        seed: of the verdicts that are turned round; None = none is.
    """

    def __init__(self, problem: Problem, seed: int | None = None) -> None:
        self.problem = problem
        self.dice = None if seed is None else torch.Generator().manual_seed(seed)
        self.names = [criterion.name for criterion in problem.criteria]

    def level_keys(self) -> list[str]:
        return self.names

    def __call__(self, rollouts: Rollouts) -> CriterionScores:
        scores, (p, g) = self._judged(rollouts), rollouts.response_ids.shape[:2]
        points = torch.tensor([criterion.points for criterion in self.problem.criteria])
        names = (tuple(self.names),) * p
        return CriterionScores(
            scores, torch.ones(p, g, len(self.names)) > 0, (points / points.sum()).expand(p, -1).contiguous(), names
        )

    def judge_again(self, rollouts: Rollouts, chosen: Tensor) -> Tensor:
        return self._judged(rollouts).where(chosen[..., None], torch.nan)

    def _judged(self, rollouts: Rollouts) -> Tensor:
        ids = rollouts.response_ids.masked_fill(~rollouts.response_mask, -1)  # a token that is missing is in no range
        columns = []
        for criterion in self.problem.criteria:
            within = (ids >= criterion.first) & (ids < criterion.last)
            if isinstance(criterion, Count):
                columns.append(within.sum(-1) >= criterion.least)
            else:
                columns.append(within[..., criterion.position] if criterion.position < ids.shape[2] else within[..., 0] & False)
        met = torch.stack(columns, -1)
        if self.dice is not None:
            rates = torch.tensor([self.problem.flips.get(name, 0.0) for name in self.names])
            met ^= torch.rand(met.shape, generator=self.dice) < rates
        return met.float()
