"""Where sampler and trainer disagree about the probability of a token: by how much, and how to correct for it."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape
from lightning_focal.functional.choices import expect_choice
from lightning_focal.functional.kl import kl_divergence

__all__ = ["IMPORTANCE_MODES", "importance_weights", "sampling_gap"]

IMPORTANCE_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
"""The names that ``mode`` may take."""


def _difference(logp: Tensor, sampling_logp: Tensor, mask: Tensor) -> Tensor:
    expect_shape("logp", logp, "N, T")
    shape = (logp.shape[0], logp.shape[1])
    expect_shape("sampling_logp", sampling_logp, "N, T", shape)
    expect_bool("mask", mask, "N, T", shape)
    return torch.where(mask, logp.detach() - sampling_logp, torch.zeros_like(logp))


def importance_weights(
    logp: Tensor, sampling_logp: Tensor, mask: Tensor, cap: float = 2.0, mode: str = "token_truncate", floor: float = 0.0
) -> Tensor:
    """What the loss of each token is multiplied by: ``w = p_trainer / p_sampler``, truncated or masked.

    The trainer's probabilities are those of the policy that is said to have sampled; another engine, precision or batch gives
    the same weights slightly different ones. The modes are TRL's: ``token_*`` takes the ratio of each token, ``sequence_*`` that of its
    whole response, the product over its tokens. ``*_truncate`` bounds it, ``min(max(w, floor), cap)``, which bounds the variance at
    the price of a small bias (Ionides 2008, *Truncated importance sampling*, doi:10.1198/106186008X320456; for rollouts of another
    engine: Yao et al. 2025, https://fengyao.notion.site/off-policy-rl, who take a cap of 2 for each token). ``*_mask`` keeps it within
    the bounds and is 0 beyond: the token, or the response, teaches nothing.

    Args:
        logp: ``[N, T]`` log-probabilities in nats as the trainer computes them; a gradient is not followed.
        sampling_logp: ``[N, T]`` those of the sampler, of the same distribution.
        mask: ``[N, T]`` bool, True = a token of the response.
        cap: largest weight, >= 1.
        mode: ``"token_truncate"``, ``"token_mask"``, ``"sequence_truncate"`` or ``"sequence_mask"``.
        floor: smallest weight, in [0, 1].

    Returns:
        ``[N, T]`` in [0, cap]; 1 where the mask is False.

    Raises:
        ValueError: on shapes that do not fit, an unknown mode, or bounds out of range.
        TypeError: if ``mask`` is not boolean.

    >>> logp, mask = torch.tensor([[0.8, 0.3, 0.5]]).log(), torch.tensor([[True, True, False]])
    >>> importance_weights(logp, torch.tensor([[0.2, 0.6, 0.1]]).log(), mask)
    tensor([[2.0000, 0.5000, 1.0000]])
    >>> importance_weights(logp, torch.tensor([[0.2, 0.6, 0.1]]).log(), mask, mode="token_mask")
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    expect_choice("mode", mode, IMPORTANCE_MODES)
    if not cap >= 1:
        raise ValueError(f"`cap` must be >= 1, got {cap}")
    if not 0 <= floor <= 1:
        raise ValueError(f"`floor` must be in [0, 1], got {floor}")
    difference = _difference(logp, sampling_logp, mask)
    if mode.startswith("sequence"):
        difference = torch.where(mask, difference.sum(-1, keepdim=True), difference)
    weights = difference.exp()
    if mode.endswith("mask"):
        return weights.masked_fill((weights < floor) | (weights > cap), 0)
    return weights.clamp(floor, cap)


@torch.no_grad()
def sampling_gap(logp: Tensor, sampling_logp: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far sampler and trainer are apart, over the tokens that count.

    Errors are those of :func:`weighted_reward`.

    Args:
        logp: ``[N, T]`` log-probabilities in nats as the trainer computes them.
        sampling_logp: ``[N, T]`` those of the sampler.
        mask: ``[N, T]`` bool, True = a token of the response.

    Returns:
        Scalar tensors, not synchronised with the host: ``mean`` and ``max`` of the absolute difference in nats, and ``kl``, the k3
        estimate of ``KL(sampler || trainer)`` in nats; 0 without a token.

    >>> gap = sampling_gap(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]]), torch.tensor([[True, True]]))
    >>> {name: round(float(value), 4) for name, value in gap.items()}
    {'mean': 0.25, 'max': 0.5, 'kl': 0.0744}
    """
    difference = _difference(logp, sampling_logp, mask)
    tokens = mask.sum().clamp_min(1)
    # The tokens come from the sampler: its divergence is the one they estimate.
    kl = kl_divergence(torch.zeros_like(difference), difference)
    return {"mean": difference.abs().sum() / tokens, "max": difference.abs().amax(), "kl": kl.sum() / tokens}
