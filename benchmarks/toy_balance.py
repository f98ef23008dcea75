"""When moving weight helps, on a toy: eight criteria of known difficulty, learnt by logits alone, under every kind of weight.

    python benchmarks/toy_balance.py --json benchmarks/results/toy_balance.json --markdown benchmarks/results/toy_balance.md
    python benchmarks/toy_balance.py --neighbours --json benchmarks/results/toy_neighbours.json --markdown benchmarks/results/toy_neighbours.md

The policy is eight independent Bernoulli variables, one a criterion; the rewards are the library's strategies as a configuration names
them. A step draws 4 prompts x 8 rollouts, judges them (a judge flips a verdict with the given rate), takes the advantages and moves each
logit along its score function (the neighbours' advantages are of very different sizes, which Adam would even out: there each step's are
scaled to a root mean square of 1). The standard deviation over a batch divides by n - 1 in the library and by n in the study whose table this
repeats; the step is lengthened by as much. After 100 steps: the true mean score, and the worst criterion that can be learnt, over 24 seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from lightning_focal.functional import student_interval
from lightning_focal.rewards import (
    DvaoAdvantage,
    FocalReward,
    Gate,
    GdpoAdvantage,
    RewardStrategy,
    SawWeighting,
    SoftMinAdvantage,
    StandardisedFocalReward,
    StaticReward,
    Weighting,
    WorstOf,
)
from lightning_focal.rewards.learning import LearningWeighting
from lightning_focal.types import CriterionScores

PROMPTS, GROUP, STEPS, RATE = 4, 8, 100, 0.6
NAMES = tuple("abcdefgh")
MEAN = float("inf")  # the temperature at which a level is a plain mean
MIXED = (0.95, 0.9, 0.7, 0.5, 0.3, 0.1, 0.05, 0.02)


@dataclass(frozen=True)
class Condition:
    """How often each criterion is met at first, whether it can be learnt, how often its verdict is flipped, and who excludes whom."""

    start: tuple[float, ...]
    flips: tuple[float, ...] = (0.0,) * 8
    learnable: tuple[bool, ...] = (True,) * 8
    excludes: tuple[int, int] | None = None
    worst: bool = True  # whether the worst criterion says anything


CONDITIONS = {
    "A heterogeneous, no noise": Condition(MIXED),
    "B alike, no noise": Condition((0.7, 0.65, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3)),
    "C as A, 10 % of verdicts flipped": Condition(MIXED, (0.1,) * 8),
    "D as C, the hardest cannot be learned": Condition((*MIXED[:7], 0.001), (0.1,) * 8, (True,) * 7 + (False,)),
    "E one criterion judged at 40 % flips": Condition(MIXED, (0.0,) * 7 + (0.4,), worst=False),
    "F two criteria exclude each other": Condition((*MIXED[:7], 0.1), excludes=(1, 7)),
}


class Reliability(LearningWeighting):
    """Weights times the correlation of two judgements, V / (V + J), averaged over batches: what informedness is compared with."""

    fields = ("covariance", "variance")

    def observe(self, scores: CriterionScores, saturation: torch.Tensor, base: torch.Tensor) -> None:
        first, second = (x - x.mean(1, keepdim=True) for x in (scores.scores, scores.repeated))
        sums = torch.stack([(first * second).sum((0, 1)), (first.square() + second.square()).sum((0, 1)) / 2]).double()
        self.kept = torch.where(self.kept.isnan(), sums, 0.9 * self.kept + 0.1 * sums)

    def __call__(self, scores: CriterionScores, saturation: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        weights = self.inner(scores, saturation, base)
        weights = weights * (self.kept[0] / self.kept[1].clamp_min(1e-6)).clamp(0, 1)
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)


def with_reliability(strategy: RewardStrategy) -> RewardStrategy:
    weighting: Weighting = Reliability(strategy.weighting)
    return RewardStrategy(weighting=weighting, weights="uniform")


UNIFORM = {"weights": "uniform"}
BATCH = {"scope": "batch", "temperature": MEAN, **UNIFORM}
METHODS = {
    "static": lambda: StaticReward(**UNIFORM),
    "GDPO": lambda: StaticReward(advantage=GdpoAdvantage(), **UNIFORM),
    "Focal g1": lambda: FocalReward(gamma=1.0, **UNIFORM),
    "Focal g1 batch": lambda: FocalReward(gamma=1.0, **BATCH),
    "Focal g1 x rho": lambda: with_reliability(FocalReward(gamma=1.0, **UNIFORM)),
    "standardised g.5 batch": lambda: StandardisedFocalReward(gamma=0.5, **BATCH),
    "standardised g1 batch": lambda: StandardisedFocalReward(gamma=1.0, **BATCH),
    "standardised g.5 batch x informedness": lambda: StandardisedFocalReward(gamma=0.5, informedness=1.0, **BATCH),
}
NEIGHBOURS = {
    "static": METHODS["static"],
    "DVAO": lambda: StaticReward(advantage=DvaoAdvantage(), **UNIFORM),
    "Focal g1 + DVAO": lambda: FocalReward(gamma=1.0, advantage=DvaoAdvantage(), **UNIFORM),
    "SAW on rewards": lambda: StaticReward(weighting=SawWeighting(), **UNIFORM),
    "SAW on advantages": lambda: StaticReward(weighting=SawWeighting(), advantage=GdpoAdvantage(), **UNIFORM),
    "RVPO": lambda: StaticReward(advantage=SoftMinAdvantage(), **UNIFORM),
    "worst of": lambda: StaticReward(reward=WorstOf(), **UNIFORM),
    "gate on the easiest": lambda: StaticReward(reward=Gate([NAMES[0]]), **UNIFORM),
    "gate on the hardest": lambda: StaticReward(reward=Gate([NAMES[-1]]), **UNIFORM),
}


def one_run(strategy: RewardStrategy, condition: Condition, seed: int, unit: bool = False) -> np.ndarray:
    """True rates ``[8]`` after training; with ``unit`` the advantages of a step are scaled to a root mean square of 1."""
    draw = np.random.default_rng(seed)
    flips, learnable = np.array(condition.flips), np.array(condition.learnable)
    logits = np.log(np.array(condition.start) / (1 - np.array(condition.start)))
    shape, rate = (PROMPTS, GROUP, len(NAMES)), RATE
    if isinstance(strategy.advantage, GdpoAdvantage):
        rate *= (PROMPTS * GROUP / (PROMPTS * GROUP - 1)) ** 0.5
    for _ in range(STEPS):
        rates = 1 / (1 + np.exp(-logits))
        met = draw.random(shape) < rates
        if condition.excludes is not None:
            first, second = condition.excludes
            met[..., second] &= ~met[..., first]
        judged, again = (torch.from_numpy((met ^ (draw.random(shape) < flips)).astype(np.float32)) for _ in range(2))
        weights = torch.full((PROMPTS, len(NAMES)), 1 / len(NAMES))
        scores = CriterionScores(judged, judged >= 0, weights, (NAMES,) * PROMPTS, repeated=again)
        strategy.observe(scores)
        advantages = strategy.shape(scores).advantages.double().numpy()
        if unit:
            advantages = advantages / max(np.sqrt(np.mean(advantages**2)), 1e-6)
        logits = logits + rate * learnable * (advantages[..., None] * (met - rates)).mean((0, 1))
    rates = 1 / (1 + np.exp(-logits))
    if condition.excludes is not None:
        rates[second] *= 1 - rates[first]
    return rates


def summary(values: list[float]) -> list[float]:
    """Mean and the ends of its 95 % interval over seeds."""
    return list(student_interval(torch.tensor(values, dtype=torch.float64)))


def table(results: dict) -> str:
    methods = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    for name, row in results.items():
        cells = []
        for method in methods:
            worst = f"/{row[method]['worst'][0]:.3f}" if CONDITIONS[name].worst else "/-"
            cells.append(f"{row[method]['mean'][0]:.3f}{worst}".replace("0.", "."))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument(
        "--neighbours", action="store_true", help="the other weightings, advantages and rewards in place of Focal's family"
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results, start = {}, time.monotonic()
    for name, condition in CONDITIONS.items():
        row, static = {}, None
        for method, make in (NEIGHBOURS if arguments.neighbours else METHODS).items():
            rates = np.array([one_run(make(), condition, seed, arguments.neighbours) for seed in range(arguments.seeds)])
            mean, worst = rates.mean(1), rates[:, np.array(condition.learnable)].min(1)
            static = (mean, worst) if static is None else static
            row[method] = {
                "mean": summary(mean.tolist()),
                "worst": summary(worst.tolist()),
                "mean_above_static": summary((mean - static[0]).tolist()),
                "worst_above_static": summary((worst - static[1]).tolist()),
                "rates": rates.round(4).tolist(),
            }
        results[name] = row
        print(table({name: row}).splitlines()[-1], flush=True)
    stored = {"provenance": provenance(), "seeds": arguments.seeds, "steps": STEPS, "seconds": round(time.monotonic() - start)}
    if arguments.json:
        arguments.json.write_text(json.dumps(stored | {"results": results}) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(table(results))


if __name__ == "__main__":
    main()
