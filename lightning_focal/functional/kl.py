"""Per-token estimators of the divergence from a reference policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from lightning_focal.functional.choices import expect_choice

__all__ = ["kl_divergence"]

_STEEP = 80.0
"""Nats from which k3 goes on along its tangent: its exponential would soon be infinite in float32."""


def _k1(difference: Tensor) -> Tensor:
    return -difference


def _k2(difference: Tensor) -> Tensor:
    return difference.square() / 2


def _k3(difference: Tensor) -> Tensor:
    tangent = math.exp(_STEEP) * (1 + difference - _STEEP)
    return torch.where(difference > _STEEP, tangent, torch.expm1(difference.clamp(max=_STEEP))) - difference


_ESTIMATORS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"k1": _k1, "k2": _k2, "k3": _k3})


def kl_divergence(logp: Tensor, ref_logp: Tensor, estimator: str = "k3", mask: Tensor | None = None) -> Tensor:
    """Estimate ``KL(policy || reference)`` at each sampled token.

    With ``d = logp_ref - logp``: ``k1 = -d``, ``k2 = d^2 / 2``, ``k3 = exp(d) - d - 1`` (Schulman's names; k3 is what GRPO,
    arXiv:2402.03300, adds to its loss). k1 and k3 are unbiased, k2 and k3 never negative. Beyond ``d`` = 80 nats k3 goes on along its
    tangent, so that value and gradient stay finite in float32.

    Args:
        logp: log-probabilities in nats of the sampled tokens under the policy, any shape.
        ref_logp: the same under the reference, same shape.
        estimator: ``"k1"``, ``"k2"`` or ``"k3"``.
        mask: bool, same shape, True = a token that counts; None = all do.

    Returns:
        One value a token, in nats, 0 with a gradient of 0 where the mask is False; the gradient flows through ``logp`` (and
        ``ref_logp``, if that has one).

    Raises:
        ValueError: on an unknown estimator, shapes that differ, or a mask that is not boolean.

    >>> kl_divergence(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
    tensor([0.1065, 0.0000])
    """
    expect_choice("estimator", estimator, _ESTIMATORS)
    if logp.shape != ref_logp.shape:
        raise ValueError(f"`ref_logp` must have the shape of `logp`, {tuple(logp.shape)}, got {tuple(ref_logp.shape)}")
    difference = ref_logp - logp
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != logp.shape:
            raise ValueError(f"`mask` must be bool {tuple(logp.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        difference = torch.where(mask, difference, torch.zeros_like(difference))  # before the exponential: 0 * inf is NaN
    return _ESTIMATORS[estimator](difference)
