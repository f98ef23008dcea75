"""Rows of several processes, joined for a forward that they compute together."""

import copy

import torch
import torch.distributed as dist

from lightning_focal.models import Sizes, load_policy
from lightning_focal.modules.certainty import mean_certainty
from lightning_focal.modules.team import Team, join_sequences
from lightning_focal.modules.update import Sequences
from tests.conftest import TINY
from tests.helpers import make_prompts, make_rollouts
from tests.processes import run_threads


def rows(count, prompt, response, first=0, logp=True):
    """``count`` rows, tokens counted from ``first``; the last token of each response is padding."""
    prompts = torch.arange(first, first + count * prompt).reshape(count, prompt)
    responses = 100 + torch.arange(first, first + count * response).reshape(count, response)
    mask = torch.ones(count, response, dtype=torch.bool)
    mask[:, -1:] = False
    return Sequences(
        prompt_ids=prompts,
        prompt_mask=torch.ones_like(prompts, dtype=torch.bool),
        response_ids=responses,
        response_mask=mask,
        advantages=torch.arange(count) - 0.5,
        valid=torch.arange(count) != 1,
        sampling_logp=-responses / 7.0 if logp else None,
    )


def test_one_process_keeps_what_it_has():
    own, team = rows(4, 3, 2), Team()
    assert join_sequences(own, team, 2) is own
    assert team.counts(4) == [4]
    assert team.join(own.valid) is own.valid
    assert team.join_optional(None, own.valid) is None
    assert team.own(own.valid, 4) is own.valid


def worker(rank):
    team = Team(dist.group.WORLD)
    first, second = rows(4, 3, 2), rows(2, 2, 5, first=50)
    own = (first, second)[rank]
    joined = join_sequences(own, team, 2)
    assert joined.prompt_ids.tolist() == [*first.prompt_ids.tolist(), [0, 50, 51], [0, 52, 53]]
    assert joined.prompt_mask.tolist() == [[True] * 3] * 4 + [[False, True, True]] * 2
    assert joined.response_ids.tolist() == [[*row, 0, 0, 0] for row in first.response_ids.tolist()] + second.response_ids.tolist()
    assert joined.response_mask.tolist() == [[True, *[False] * 4]] * 4 + [[*[True] * 4, False]] * 2
    assert joined.advantages.tolist() == [-0.5, 0.5, 1.5, 2.5, -0.5, 0.5]
    assert joined.valid.tolist() == [True, False, True, True, True, False]
    assert joined.sampling_logp[4:].equal(second.sampling_logp)
    assert joined.sizes == Sizes((0, 0, 1, 1, 2, 2), (3, 3, 3, 3, 2, 2), (1, 1, 1, 1, 4, 4))
    assert joined.views is None
    assert team.own(joined.response_ids, len(own))[:, : own.response_ids.shape[1]].equal(own.response_ids)

    alone = (first, rows(0, 1, 0, logp=False))[rank]  # a process without prompts knows of no log-probabilities
    joined = join_sequences(alone, team, 2)
    assert joined.response_ids.equal(first.response_ids)
    assert joined.sampling_logp.equal(first.sampling_logp)
    assert team.own(joined.advantages, len(alone)).equal(alone.advantages)

    partly = (first, rows(2, 2, 5, logp=False))[rank]
    assert join_sequences(partly, team, 2).sampling_logp is None
    nothing = join_sequences(rows(0, 1, 0), team, 2)
    assert (len(nothing), len(nothing.sampling_logp)) == (0, 0)


def test_every_process_gets_the_rows_of_all():
    run_threads(worker)


def certain(rank, shares):
    policy, rollouts, expected = shares[rank]
    passes = []
    found = mean_certainty(policy, rollouts, 1.0, 2, lambda count: passes.append(count) or count, Team(dist.group.WORLD))
    assert passes == [3]  # of the six responses there are, two at a time
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=0)


def test_each_process_is_told_the_certainty_of_its_own_responses():
    policy, _ = load_policy(TINY)
    shares = []
    for count, tokens in ((2, 3), (1, 5)):
        responses = torch.arange(2 * count * tokens).reshape(count, 2, tokens) % 250
        rollouts = make_rollouts(make_prompts(count), tokens=tokens, response_ids=responses)
        shares.append((copy.deepcopy(policy), rollouts, mean_certainty(policy, rollouts, 1.0, 8)))
    run_threads(certain, shares)
