"""What is compared: each method with the settings among which tuning seeds choose, all on the rubric's own points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from problems import Problem

from lightning_focal.rewards import (
    FocalReward,
    GdpoAdvantage,
    Pow3rWeighting,
    RewardStrategy,
    RubricDropout,
    SaMrpoAdvantage,
    ScoreSource,
    StandardisedFocalReward,
    StaticReward,
)

Build = Callable[[ScoreSource], RewardStrategy]

STATIC = ("static, uniform", "static, points", "static, tuned")
"""The strongest of these is what a method has to beat."""


def _tuned(problem: Problem, draw: int) -> dict[str, float]:
    """Fixed weights: points times a factor; the first draws lean to what is met rarely, the others at random."""
    points = {criterion.name: criterion.points for criterion in problem.criteria}
    if draw < 3:
        rare = {c.name: ((c.last - c.first) / 259) ** -(0.25, 0.5, 1.0)[draw] for c in problem.criteria}
        return {name: value * rare[name] for name, value in points.items()}
    factors = torch.randn(len(points), generator=torch.Generator().manual_seed(draw)).mul(0.8).exp().tolist()
    return {name: value * factor for (name, value), factor in zip(points.items(), factors, strict=True)}


def methods(problem: Problem) -> dict[str, dict[str, Build]]:
    """Strategies by method and setting; each takes the source of training scores."""
    table: dict[str, dict[str, Build]] = {
        "static, uniform": {"-": lambda source: StaticReward(source, weights="uniform")},
        "static, points": {"-": lambda source: StaticReward(source)},
        "static, tuned": {
            f"draw {draw}": lambda source, draw=draw: StaticReward(source, weights=_tuned(problem, draw)) for draw in range(8)
        },
        "GDPO": {"-": lambda source: StaticReward(source, advantage=GdpoAdvantage())},
        "Focal": {
            f"gamma {gamma:g}, tau {tau:g}": lambda source, gamma=gamma, tau=tau: FocalReward(gamma, tau, source=source)
            for gamma, tau in ((1, 1), (3, 1), (1, 0.5), (2, 0.5), (1, 0.1), (3, 0.1))
        },
        "Focal, batch": {
            f"gamma {gamma:g}": lambda source, gamma=gamma: FocalReward(gamma, scope="batch", source=source)
            for gamma in (0.5, 1, 2)
        },
        "standardised Focal": {
            f"gamma {gamma:g}": lambda source, gamma=gamma: StandardisedFocalReward(gamma, source=source) for gamma in (0.5, 1, 2)
        },
        "standardised Focal, informed": {
            f"gamma {gamma:g}": lambda source, gamma=gamma: StandardisedFocalReward(gamma, source=source, informedness=0.25)
            for gamma in (0.5, 1, 2)
        },
        "SA-MRPO": {
            f"gamma {gamma:g}": lambda source, gamma=gamma: StaticReward(source, advantage=SaMrpoAdvantage(gamma))
            for gamma in (0.25, 0.5, 1)
        },
        "POW3R": {
            f"strength {strength:g}": lambda source, strength=strength: StaticReward(source, Pow3rWeighting(strength))
            for strength in (0.5, 0.8)
        },
        "Rubric Dropout": {
            f"share {share:g}": lambda source, share=share: StaticReward(source, RubricDropout(share=share))
            for share in (0.3, 0.5)
        },
    }
    if not problem.flips:  # a judge that never contradicts itself is fully informed: the same run as without
        del table["standardised Focal, informed"]
    return table


def ablations(problem: Problem) -> dict[str, Build]:
    """The recipe and what it is made of, one part changed at a time; not part of the comparison."""
    table: dict[str, Build] = {
        "recipe": lambda source: StandardisedFocalReward(1.0, source=source),
        "group level": lambda source: StandardisedFocalReward(1.0, scope="group", source=source),
        "running level": lambda source: StandardisedFocalReward(1.0, scope="running", source=source),
        "half static": lambda source: StandardisedFocalReward(1.0, mix=0.5, source=source),
        "bounded": lambda source: StandardisedFocalReward(1.0, bounds=(0.05, 0.3), source=source),
        "group mean in place of the projection": lambda source: StandardisedFocalReward(1.0, temperature=1e6, source=source),
        "not standardised": lambda source: FocalReward(1.0, scope="batch", source=source),
    }
    if problem.flips:
        table["informed"] = lambda source: StandardisedFocalReward(1.0, source=source, informedness=0.25)
    return table
