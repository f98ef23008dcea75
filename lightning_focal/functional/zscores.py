"""Scores of each criterion relative to the group's own."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_shape, working_dtype
from lightning_focal.functional.groups import centre, expect_valid

__all__ = ["group_spread", "group_zscores"]


def group_spread(scores: Tensor, mask: Tensor | None = None, unbiased: bool = True) -> tuple[Tensor, Tensor]:
    """Deviations from the group mean and standard deviation of every criterion, over the rollouts it was judged on.

    Args:
        scores: ``[P, G, C]``.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        unbiased: divide by ``n - 1``; False: by ``n`` (population).

    Returns:
        ``(deviations [P, G, C], std [P, C])``, at least float32. Deviations are 0 where a score does not count; both are exactly
        0 where all scores agree or only one was judged.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> group_spread(torch.tensor([[[1.0], [0.0]]]), unbiased=False)
    (tensor([[[ 0.5000],
             [-0.5000]]]), tensor([[0.5000]]))
    """
    expect_shape("scores", scores, "P, G, C")
    expect_valid(scores, mask, "mask")
    deviations, count = centre(scores.to(working_dtype(scores)), mask, dim=1)
    divisor = (count - 1 if unbiased else count).clamp_min(1)
    return deviations, (deviations.square().sum(1, keepdim=True) / divisor).sqrt()[:, 0]


def group_zscores(scores: Tensor, mask: Tensor | None = None, epsilon: float = 1e-6, unbiased: bool = True) -> Tensor:
    """Group z-score of every criterion.

    ``z_ic = (s_ic - mean_i s_ic) / (std_i s_ic + epsilon)`` over the rollouts ``i`` on which ``c`` was judged (NVlabs/GDPO).

    Args:
        scores: ``[P, G, C]``.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        epsilon: added to the standard deviation.
        unbiased: divide the variance by ``n - 1``; False: by ``n``.

    Returns:
        ``[P, G, C]``, at least float32; exactly 0 where a score does not count, all agree, or only one was judged.

    Raises:
        ValueError: on shapes that do not fit.
        TypeError: if ``mask`` is not boolean.

    >>> group_zscores(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]))
    tensor([[[ 0.7071,  0.0000],
             [-0.7071,  0.0000]]])
    """
    deviations, std = group_spread(scores, mask, unbiased)
    return deviations / (std[:, None] + epsilon).clamp_min(torch.finfo(std.dtype).tiny)
