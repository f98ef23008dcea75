"""The evidence: how often a uniform policy meets what a rubric says, what a noisy judge turns round, what its tables say of stored runs."""

import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import make_prompts, make_rollouts

sys.path.append(str(Path(__file__).parent.parent / "benchmarks" / "evidence"))

import label_free
from methods import STATIC, ablations, methods
from problems import PROBLEMS, VOCABULARY, Count, Verdicts
from run import write_rows
from tables import MEASURES, Cell, wins


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
            drawn_so = torch.distributions.Binomial(problem.tokens, torch.tensor(share))
            expected = float(drawn_so.log_prob(tokens.float()).exp().sum())
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
        for build in [build for settings in table.values() for build in settings.values()] + [*ablations(problem).values()]:
            strategy = build(Verdicts(problem, 0))
            scores = strategy.score(drawn(problem.tokens, 8))
            strategy.observe(scores)
            assert strategy.shape(scores).advantages.isfinite().all()


def test_a_cell_of_the_tables_by_hand(tmp_path):
    table = {"static, uniform": (0.5, 0.7), "static, points": (0.6, 0.8), "static, tuned": (0.4, 0.4), "GDPO": (0.7, 1.0)}
    rows = [
        {"method": method, "setting": "-", "seed": seed, "role": "test", "steps": 2, "batch": batch}
        | dict.fromkeys(MEASURES, score * batch / 2)
        for method, scores in table.items()
        for seed, score in enumerate(scores)
        for batch in (0, 2)
    ]
    path = tmp_path / "0.8M-noisy.parquet"
    write_rows(path, rows)
    cell = Cell.read(path)
    assert (cell.scale, cell.problem, cell.static, cell.moved) == ("0.8M", "noisy", "static, points", ["GDPO"])
    middle, low, high = cell.against_static("GDPO", "score")  # 0.1 and 0.2; t(1) = 12.706
    assert (middle, high - low) == pytest.approx((0.15, 12.706 * 0.1), abs=1e-3)
    assert wins([cell])[2] == "| GDPO | 1 | 1 (0) | 0 (0) | 1 (0) | 0 (0) | 1 (0) | 0 (0) |"
    write_rows(path, [row for row in rows if (row["method"], row["seed"]) != ("static, tuned", 1)])
    assert Cell.read(path) is None  # a baseline is not complete


def test_the_outcome_of_a_run_without_labels():
    course = [(0, 0.5, 0.48), (10, 0.7, 0.6), (20, 0.2, 0.3)]
    rows = [{"method": "entropy", "seed": 1, "batch": b, "choosing": c, "accuracy": a} for b, c, a in course]
    assert label_free.outcomes(rows) == {"entropy": {1: {"before": 0.48, "final": 0.3, "best": 0.6}}}
    assert "| 1 of 1 |" in label_free.task_table(rows)[2]
