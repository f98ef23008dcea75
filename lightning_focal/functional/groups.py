"""Statistics over the valid rollouts of a group, of each criterion in a group, and over a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_scores, kept, wide_dtype, working_dtype

__all__ = ["batch_moments", "batch_std", "group_spread", "group_zscores", "varied_groups"]


def centre(values: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``(deviations, count)`` over the valid entries along the second axis (None = all); deviations are 0 where not valid.

    Deviations of a group are exactly 0 where its values agree up to the rounding of their largest (8 units in the last place):
    a mean of equal numbers need not equal them, and the noise would be blown up by a division.
    """
    if valid is None:
        counts, low = None, values.amin(1, keepdim=True)
        count = torch.full_like(low, values.shape[1])
        above = values - low
    else:
        counts = valid.to(values.dtype)
        count = counts.sum(1, keepdim=True)
        low = torch.where(valid, values, torch.inf).amin(1, keepdim=True)
        low = torch.where(count > 0, low, 0.0)
        above = torch.where(valid, values, low) - low
    spread = above.amax(1, keepdim=True)
    # Below the smallest normal number one unit in the last place no longer shrinks with the value.
    largest = torch.maximum(low.abs(), (low + spread).abs()).clamp_min(torch.finfo(values.dtype).tiny)
    # Negated, so that a NaN that counts stays visible.
    spreads = ~(spread <= 8 * torch.finfo(values.dtype).eps * largest) & (count > 1)
    above.mul_(spreads)
    mean = above.sum(1, keepdim=True) / count.clamp_min(1)
    return above.sub_(mean if counts is None else mean * counts), count


def batch_moments(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count, sum and sum of squares over all valid entries: what processes add up to share one batch statistic (ours).

    Args:
        values: ``[P, G]``, any scale.
        valid: ``[P, G]`` bool, True = counts; None = all do.

    Returns:
        ``[3]`` float64 (float32 on MPS), to be all-reduced by summing and given to :func:`batch_std`.

    >>> batch_moments(torch.tensor([[1.0, 3.0]]))
    tensor([ 2.,  4., 10.], dtype=torch.float64)
    """
    expect_bool("valid", valid, "P, G", tuple(values.shape))
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    values = kept(values.to(wide_dtype(values)), valid)
    return torch.stack([valid.sum().to(values.dtype), values.sum(), values.square().sum()])


def batch_std(moments: Tensor, unbiased: bool = True) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from :func:`batch_moments`: ``std^2 = (sum x^2 - (sum x)^2 / n) / (n - 1)``.

    Args:
        moments: ``[3]`` or ``[3, n]``, summed over the processes.
        unbiased: divide by ``n - 1``; False: by ``n``.

    Returns:
        ``(mean, std)``, scalars or ``[n]``; ``std`` is 0 for fewer than two entries or where only rounding is left.

    >>> batch_std(torch.tensor([2.0, 4.0, 10.0], dtype=torch.float64))
    (tensor(2., dtype=torch.float64), tensor(1.4142, dtype=torch.float64))
    """
    count, total, squares = moments.unbind()
    mean = total / count.clamp_min(1)
    around = squares - total * mean
    around = torch.where(around > 64 * torch.finfo(moments.dtype).eps * squares, around, 0.0)
    return mean, (around / (count - 1 if unbiased else count).clamp_min(1)).sqrt()


def group_spread(scores: Tensor, mask: Tensor | None = None, unbiased: bool = True) -> tuple[Tensor, Tensor]:
    """Deviations from the group mean and standard deviation of every criterion, over the rollouts it was judged on.

    Errors are those of :func:`weighted_reward`.

    Args:
        scores: ``[P, G, C]``.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        unbiased: divide by ``n - 1``; False: by ``n`` (population).

    Returns:
        ``(deviations [P, G, C], std [P, C])``, at least float32. Deviations are 0 where a score does not count; both are exactly
        0 where all scores agree or only one was judged.

    >>> group_spread(torch.tensor([[[1.0], [0.0]]]), unbiased=False)
    (tensor([[[ 0.5000],
             [-0.5000]]]), tensor([[0.5000]]))
    """
    expect_scores(scores, mask)
    deviations, count = centre(scores.to(working_dtype(scores)), mask)
    divisor = (count - 1 if unbiased else count).clamp_min(1)
    return deviations, (deviations.square().sum(1, keepdim=True) / divisor).sqrt()[:, 0]


def group_zscores(scores: Tensor, mask: Tensor | None = None, epsilon: float = 1e-6, unbiased: bool = True) -> Tensor:
    """Group z-score of every criterion.

    ``z_ic = (s_ic - mean_i s_ic) / (std_i s_ic + epsilon)`` over the rollouts ``i`` on which ``c`` was judged (NVlabs/GDPO).
    ``epsilon`` is added to the standard deviation; other arguments and errors are those of :func:`group_spread`.

    Returns:
        ``[P, G, C]``, at least float32; exactly 0 where a score does not count, all agree, or only one was judged.

    >>> group_zscores(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]))
    tensor([[[ 0.7071,  0.0000],
             [-0.7071,  0.0000]]])
    """
    deviations, std = group_spread(scores, mask, unbiased)
    return deviations / (std[:, None] + epsilon).clamp_min(torch.finfo(std.dtype).tiny)


def varied_groups(scores: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Which groups hold a contrast: a criterion that weighs and does not have one score on all rollouts it was judged on (ours).

    DAPO (arXiv:2503.14476) and verl ask whether the reward varies. Two rollouts that meet a criterion each, and another one, tie in
    their sum; there is something to learn from them all the same, under other weights or criterion by criterion.

    Args:
        scores: ``[P, G, C]``.
        weights: ``[P, C]`` >= 0; a criterion of weight 0 says nothing.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.

    Returns:
        ``[P]`` bool.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> ties, same = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]
    >>> varied_groups(torch.tensor([ties, same]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    tensor([ True, False])
    """
    expect_scores(scores, mask, weights)
    return ((group_spread(scores, mask)[1] > 0) & (weights > 0)).any(-1)
