"""One ability a rollout from verdicts of known difficulty: a probit item-response model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_scores, expect_shape, kept, working_dtype

__all__ = ["item_response_reward", "probit_difficulty"]

_STEPS = 6
"""Of Newton's method; what is left after them is below 1e-8 for rubrics of up to 64 criteria."""
_FAR = 12.0
"""Standard deviations between ability and difficulty beyond which a verdict counts as at this distance: float32 ends there."""


def probit_difficulty(moments: Tensor) -> Tensor:
    """Difficulty of each criterion from its batch mean: ``delta = -sqrt(2) Phi^-1(p)``.

    At this difficulty abilities ``theta ~ N(0, 1)`` meet the criterion at the rate ``p``, with ``P(met) = Phi(theta - delta)``
    (RRT, arXiv:2609.35646, with the difficulties of the batch). ``p = (sum + 1/2) / (count + 1)`` keeps it finite (ours).

    Args:
        moments: ``[3, n]``, :func:`criterion_moments` summed over all processes.

    Returns:
        ``[n]``; 0 for a name that was never judged.

    >>> probit_difficulty(torch.tensor([[9.0, 0.0], [4.5, 0.0], [4.5, 0.0]])).abs()
    tensor([0., 0.])
    """
    count, total, _ = moments.unbind()
    rate: Tensor = torch.special.ndtri((total + 0.5) / (count + 1))
    return -math.sqrt(2) * rate


@torch.no_grad()
def item_response_reward(scores: Tensor, weights: Tensor, mask: Tensor | None = None, *, difficulty: Tensor) -> Tensor:
    """Posterior mode of a rollout's ability in a probit item-response model (RRT, arXiv:2609.35646).

    ``theta_i = argmax sum_c v_ic (s_ic ln Phi(theta - delta_c) + (1 - s_ic) ln Phi(delta_c - theta)) - theta^2 / 2`` over the criteria
    judged on rollout ``i``. Grades count as shares of a verdict, and a criterion as ``v_ic = n_i w_c / sum_k w_k`` verdicts of the
    ``n_i``, so equal weights give the plain model (both ours). The function is strictly concave; Newton's method is exact after six
    steps. Errors are those of :func:`weighted_reward`.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        weights: ``[P, C]`` >= 0; a criterion of weight 0 takes no part.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        difficulty: ``[P, C]``, in units of ability (:func:`probit_difficulty`).

    Returns:
        ``[P, G]`` ability, any size, at least float32; 0, the mean of the prior, where nothing was judged.

    >>> scores = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    >>> item_response_reward(scores, torch.tensor([[0.5, 0.5]]), difficulty=torch.tensor([[-1.0, 1.0]]))
    tensor([[0.9169, 0.0000, 0.0000]])
    """
    expect_scores(scores, mask, weights)
    expect_shape("difficulty", difficulty, "P, C", tuple(weights.shape))
    dtype = working_dtype(scores, weights)
    counts = (weights > 0)[:, None].expand_as(scores)
    counts = counts if mask is None else counts & mask
    share = kept(weights.to(dtype)[:, None].expand_as(scores), counts)
    total = share.sum(-1, keepdim=True)
    share = share * (counts.sum(-1, keepdim=True) / total.masked_fill(total <= 0, 1))
    met = kept(scores.to(dtype), counts) * share
    unmet, delta = share - met, difficulty.to(dtype)[:, None]
    theta = met.new_zeros((len(met), 1))  # one ability for all: the first step looks at criteria alone
    for _ in range(_STEPS):
        x = (theta[..., None] - delta).clamp_(-_FAR, _FAR)
        density = x.square().mul_(-0.5).exp_().mul_(math.sqrt(2 / math.pi))  # of both: phi(x) / Phi(x) and phi(x) / Phi(-x)
        up, down = density / torch.erfc(x * -math.sqrt(0.5)), density / torch.erfc(x * math.sqrt(0.5))
        gain, loss = met * up, unmet * down
        apart = gain - loss
        slope = apart.sum(-1) - theta
        curvature = (apart * x).addcmul_(gain, up).addcmul_(loss, down).sum(-1) + 1
        theta = theta + slope / curvature
    return theta.expand(scores.shape[:2])
