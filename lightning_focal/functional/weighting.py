"""Focal weights: less for what is already satisfied, more for what is not."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape, normalise, working_dtype
from lightning_focal.functional.simplex import project_bounded_simplex

__all__ = ["base_weights", "focal_weights"]


@torch.no_grad()
def base_weights(weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Base weights over the criteria that apply, each row summing to 1.

    ``b_c = m_c |points_c| / sum_k m_k |points_k|`` (public re-implementation: "prior"); equal weights give "uniform".

    Args:
        weights: ``[P, C]`` >= 0, any scale.
        mask: ``[P, C]`` bool, True = the criterion applies; None = all do.

    Returns:
        ``[P, C]``, at least float32; rows with nothing that applies are 0.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> base_weights(torch.tensor([[3.0, 1.0, 4.0]]), torch.tensor([[True, True, False]]))
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    expect_shape("weights", weights, "P, C")
    weights = weights.to(working_dtype(weights))
    if mask is not None:
        expect_bool("mask", mask, "P, C", tuple(weights.shape))
        weights = torch.where(mask, weights, torch.zeros_like(weights))
    return normalise(weights)


@torch.no_grad()
def focal_weights(
    saturation: Tensor,
    weights: Tensor,
    mask: Tensor | None = None,
    gamma: float = 3.0,
    epsilon: float = 0.05,
    bounds: tuple[float, float] | None = None,
    bounds_relative: bool | None = None,
) -> Tensor:
    """Move weight from satisfied criteria to those that still have something to gain.

    ``d_c = 1 - sigma_c + epsilon``, ``w_c = b_c d_c^gamma / sum_k b_k d_k^gamma`` (arXiv:2605.26579 states the purpose; formula
    and defaults: public re-implementation, rescaled from scores 0..10). With ``gamma = 0``, or where all levels of a row are
    equal, ``w`` is ``b`` bit by bit.

    ``bounds`` then takes the nearest point with ``lo <= w_c <= hi`` (:func:`project_bounded_simplex`).

    Args:
        saturation: ``[P, C]`` in [0, 1]; entries that do not apply may hold anything.
        weights: ``[P, C]`` base weights >= 0, any scale.
        mask: ``[P, C]`` bool, True = the criterion applies to the prompt; None = all do.
        gamma: >= 0, how sharply satisfied criteria lose weight; 0 = static.
        epsilon: >= 0, the difficulty that a satisfied criterion keeps, in units of score.
        bounds: ``(lo, hi)`` for every weight, or None.
        bounds_relative: True reads the bounds as multiples of ``b_c``, False as weights; None = as multiples exactly when the
            rows of ``mask`` do not all have the same number of applying criteria (ours).

    Returns:
        ``[P, C]``, at least float32, without gradient; rows sum to 1, or are 0 where nothing applies.

    Raises:
        ValueError: on shapes that do not fit, a negative ``gamma`` or ``epsilon``, or bounds that no weights can satisfy.
        TypeError: if ``mask`` is not boolean.

    >>> focal_weights(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 0.5]]), gamma=1.0, epsilon=0.5)
    tensor([[0.3333, 0.6667]])
    >>> focal_weights(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 0.5]]), bounds=(0.4, 0.6))
    tensor([[0.4000, 0.6000]])
    """
    expect_shape("saturation", saturation, "P, C")
    expect_shape("weights", weights, "P, C", tuple(saturation.shape))
    if not gamma >= 0:
        raise ValueError(f"`gamma` must be >= 0, got {gamma}")
    if not epsilon >= 0:
        raise ValueError(f"`epsilon` must be >= 0, got {epsilon}")
    dtype = working_dtype(saturation, weights)
    base = base_weights(weights.to(dtype), mask)
    difficulty = torch.where(base > 0, 1 - saturation.to(dtype) + epsilon, torch.zeros_like(base))
    if base.shape[1] == 0:
        return base
    # Relative to the hardest criterion: equal levels give a factor of exactly 1, and no power of a small number underflows.
    hardest = difficulty.amax(-1, keepdim=True)
    none = (hardest <= 0).to(dtype)  # all satisfied and no epsilon: equal levels as well
    focal = normalise(base * ((difficulty + none) / (hardest + none)) ** gamma)
    if bounds is None:
        return focal
    applies = torch.ones_like(focal, dtype=torch.bool) if mask is None else mask
    if bounds_relative is None:
        counts = applies.sum(-1)
        bounds_relative = bool((counts != counts.max()).any()) if counts.numel() else False
    low, high = (torch.as_tensor(bound, dtype=dtype, device=focal.device) for bound in bounds)
    if bounds_relative:
        low, high = low * base, high * base
    return project_bounded_simplex(focal, low, high, applies & (base.sum(-1, keepdim=True) > 0))
