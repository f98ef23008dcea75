"""How sure the policy is of what it wrote."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_focal.models import idle_pass, put_away, response_measures
from lightning_focal.modules.team import Team
from lightning_focal.types import Rollouts

__all__ = ["mean_certainty"]


@torch.no_grad()
def mean_certainty(
    policy: nn.Module,
    rollouts: Rollouts,
    temperature: float,
    micro_batch_size: int,
    most: Callable[[int], int] = lambda number: number,
    team: Team = Team(),  # noqa: B008 - frozen
) -> dict[str, Tensor]:
    """Return self-certainty and entropy of each response: means over its tokens, in eval mode and without gradient.

    Args:
        policy: the model that wrote the rollouts.
        rollouts: ``P`` groups of ``G``.
        temperature: > 0, of the distribution that is measured.
        micro_batch_size: sequences in one forward pass.
        most: the largest of a number over processes; every process makes as many passes.
        team: processes that compute the policy's layers together: each row is computed by all of them.

    Returns:
        ``self_certainty`` and ``entropy``, each ``[P, G]`` float32 in nats; NaN for a response without a token.
    """
    g, names = rollouts.group_size, ("self_certainty", "entropy")
    own = rollouts.response_mask.flatten(0, 1)
    prompts, prompt_mask = (team.join(t.repeat_interleave(g, 0), left=True) for t in (rollouts.prompt_ids, rollouts.prompt_mask))
    responses, mask = team.join(rollouts.response_ids.flatten(0, 1)), team.join(own)
    means = {name: torch.full((len(mask),), torch.nan, device=mask.device) for name in names}
    training = policy.training
    policy.eval()
    try:
        chunks = torch.split(mask.sum(-1).argsort(descending=True, stable=True), micro_batch_size) if len(mask) else ()
        idle = most(len(chunks)) - len(chunks)  # asked before the first pass: all processes are at one place
        for rows in chunks:
            inputs = (prompts[rows], prompt_mask[rows], responses[rows], mask[rows])
            _, measured = response_measures(policy, *inputs, names, temperature=temperature)
            for name in names:
                means[name][rows] = measured[name].sum(-1) / mask[rows].sum(-1)  # 0 / 0 is NaN
        for _ in range(idle):
            idle_pass(policy)
    finally:
        put_away(policy)
        policy.train(training)
    return {name: team.own(values, len(own)).reshape(-1, g) for name, values in means.items()}
