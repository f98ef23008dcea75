"""The rubrics of the evidence: how often a uniform policy meets what it says, and what a noisy judge turns round."""

import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import make_prompts, make_rollouts

sys.path.append(str(Path(__file__).parent.parent / "benchmarks" / "evidence"))

from methods import ABLATIONS, STATIC, methods
from problems import PROBLEMS, VOCABULARY, Count, Verdicts


def drawn(tokens, rollouts=4000):
    ids = torch.randint(0, VOCABULARY, (2, rollouts, tokens), generator=torch.Generator().manual_seed(0))
    return make_rollouts(make_prompts(2), rollouts, tokens, response_ids=ids)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_uniform_policy_meets_each_criterion_as_often_as_said(name):
    problem = PROBLEMS[name]
    scores = Verdicts(problem)(drawn(problem.tokens))
    assert scores.weights.sum(1).tolist() == pytest.approx([1.0, 1.0])
    for c, criterion in enumerate(problem.criteria):
        share = (criterion.last - criterion.first) / VOCABULARY
        expected = share
        if isinstance(criterion, Count):
            tokens = torch.arange(criterion.least, problem.tokens + 1)
            expected = float(
                torch.distributions.Binomial(problem.tokens, torch.tensor(share)).log_prob(tokens.float()).exp().sum()
            )
        if criterion.name in problem.impossible:
            expected = 0.0
        assert float(scores.scores[..., c].mean()) == pytest.approx(expected, abs=0.02), criterion.name


def test_the_noisy_judge_errs_as_often_as_said_and_never_on_held_out_prompts():
    problem, rollouts = PROBLEMS["noisy"], drawn(9)
    true, seen = (Verdicts(problem, seed)(rollouts).scores for seed in (None, 1))
    wrong = (true != seen).float().mean((0, 1)).tolist()
    assert wrong == pytest.approx([problem.flips[criterion.name] for criterion in problem.criteria], abs=0.02)
    again = Verdicts(problem, 1)
    assert again(rollouts).scores.equal(seen)
    chosen = torch.zeros(2, 4000, dtype=torch.bool)
    chosen[0] = True
    twice = again.judge_again(rollouts, chosen)
    assert twice[1].isnan().all()
    assert 0.15 < (twice[0] != seen[0])[:, 0].float().mean() < 0.21  # 2 e (1 - e) at e = 0.1


def test_every_method_of_the_grid_is_made():
    for name, problem in PROBLEMS.items():
        table = methods(problem)
        assert set(STATIC) <= table.keys()
        assert ("standardised Focal, informed" in table) == bool(problem.flips), name
        for build in [build for settings in table.values() for build in settings.values()] + [*ABLATIONS.values()]:
            strategy = build(Verdicts(problem, 0))
            scores = strategy.score(drawn(problem.tokens, 8))
            strategy.observe(scores)
            assert strategy.shape(scores).advantages.isfinite().all()
