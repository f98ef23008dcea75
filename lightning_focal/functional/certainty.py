"""How sure a distribution over tokens is of itself: the label-free rewards of the baselines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["self_certainty", "token_entropy"]


def self_certainty(logits: Tensor) -> Tensor:
    r"""Divergence of the uniform distribution from the policy, ``KL(U || p) = logsumexp(z) - mean(z) - ln V``.

    In words in arXiv:2508.00410 (baseline); per token, as public Intuitor implementations have it.

    Args:
        logits: ``[..., V]`` floating point, already divided by the temperature.

    Returns:
        ``[...]`` float32 in nats, >= 0; 0 for a uniform distribution, without an upper bound.

    >>> self_certainty(torch.tensor([[0.0, 0.0], [0.0, 1.0986123]]))  # uniform; 1/4 and 3/4: ln 2 - ln(3) / 2 + ...
    tensor([0.0000, 0.1438])
    """
    scaled = logits.float()
    return scaled.logsumexp(-1) - scaled.mean(-1) - math.log(logits.shape[-1])


def token_entropy(logits: Tensor) -> Tensor:
    r"""Entropy ``-sum p ln p`` of ``p = softmax(z)``.

    Args:
        logits: ``[..., V]`` floating point, already divided by the temperature; ``-inf`` is a token that cannot come.

    Returns:
        ``[...]`` float32 in nats, in [0, ln V].

    >>> token_entropy(torch.tensor([[0.0, 0.0], [0.0, 1.0986123]]))
    tensor([0.6931, 0.5623])
    """
    logp = logits.float().log_softmax(-1)
    # masked before the product: the gradient is finite, too
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0)).sum(-1)
