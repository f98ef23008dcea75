"""What theory asks of a weighting: which pairs it orders otherwise, how noisy verdicts are, what goes with length."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_scores, expect_shape, kept, working_dtype
from lightning_focal.functional.groups import centre, group_spread

__all__ = ["compare_ranks", "length_correlation", "length_weight", "pair_signs", "projection_tilt", "repeat_variance"]


@torch.no_grad()
def repeat_variance(scores: Tensor, repeated: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance ``J`` that a judge adds to a criterion: ``mean_i (s_ic - s'_ic)^2 / 2`` over rollouts that were judged twice.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        repeated: ``[P, G, C]``, a second judgement; NaN = there is none.
        mask: ``[P, G, C]`` bool, True = the first judgement counts; None = all do.

    Returns:
        ``[P, C]``, at least float32, NaN where nothing was judged twice.

    >>> repeat_variance(torch.tensor([[[1.0], [0.0], [1.0]]]), torch.tensor([[[0.0], [0.0], [float("nan")]]]))
    tensor([[0.2500]])
    """
    expect_scores(scores, mask)
    expect_shape("repeated", repeated, "P, G, C", tuple(scores.shape))
    twice = ~repeated.isnan() if mask is None else ~repeated.isnan() & mask
    apart = scores.to(working_dtype(scores, repeated)) - repeated
    return kept(apart.square() / 2, twice).sum(1) / twice.sum(1)  # 0 / 0 is NaN


@torch.no_grad()
def length_correlation(scores: Tensor, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson's correlation of a criterion's scores with the lengths of the responses, within each group.

    Args:
        scores: ``[P, G, C]``.
        lengths: ``[P, G]``, in tokens, say.
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.

    Returns:
        ``[P, C]`` in [-1, 1], at least float32; NaN where scores or lengths do not vary.

    >>> length_correlation(torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]), torch.tensor([[10, 30]]))
    tensor([[-1., nan]])
    """
    deviations, std = group_spread(scores, mask, unbiased=False)
    size, count = centre(lengths.to(deviations.dtype)[..., None].expand_as(deviations), mask)
    size_std = (size.square().sum(1) / count[:, 0].clamp_min(1)).sqrt()
    covariance = (deviations * size).sum(1) / count[:, 0].clamp_min(1)
    return (covariance / (std * size_std)).clamp(-1, 1)  # 0 / 0 is NaN


@torch.no_grad()
def projection_tilt(saturation: Tensor, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Saturation minus the mean score of each criterion in its group: near 0 the projection is the mean.

    Args:
        saturation: ``[P, C]`` in [0, 1].
        scores: ``[P, G, C]`` in [0, 1].
        mask: ``[P, G, C]`` bool, True = this score counts.

    Returns:
        ``(tilt, known)``, ``[P, C]`` each; not known where nothing was judged.

    >>> tilt, known = projection_tilt(torch.tensor([[0.75]]), torch.tensor([[[1.0], [0.0]]]), torch.ones(1, 2, 1) > 0)
    >>> tilt
    tensor([[0.2500]])
    """
    count = mask.sum(1)
    return saturation - kept(scores, mask).sum(1) / count.clamp_min(1), count > 0


def length_weight(weights: Tensor, correlation: Tensor) -> Tensor:
    """Weight of each prompt on criteria that go with length: ``sum_c w_c |r_c|``.

    Args:
        weights: ``[P, C]``, rows summing to 1.
        correlation: ``[P, C]``, see :func:`length_correlation`; NaN counts as 0.

    Returns:
        ``[P]`` in [0, 1].

    >>> length_weight(torch.tensor([[0.5, 0.5]]), torch.tensor([[-1.0, torch.nan]]))
    tensor([0.5000])
    """
    return (weights * correlation.abs().nan_to_num()).sum(-1)


def compare_ranks(static: Tensor, rewards: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Compare two orders of the rollouts of each group, pair by pair.

    Args:
        static: ``[P, G]`` one reward.
        rewards: ``[P, G]`` the other.
        valid: ``[P, G]`` bool, True = takes part.

    Returns:
        Sums over all groups, as float64 scalars: ``pairs`` (that are valid and not tied under both), ``flipped`` (ordered one way by one and the
        other way by the other), ``split`` (tied under exactly one), ``kendall_distance`` (flipped plus half of split: Fagin's K
        with p = 1/2), ``groups`` with two valid rollouts or more, ``new_best`` (groups whose best rollout changed).

    >>> ranks = compare_ranks(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2.0, 3.0, 1.0]]), torch.ones(1, 3).bool())
    >>> int(ranks["pairs"]), int(ranks["flipped"]), int(ranks["new_best"])
    (3, 1, 1)
    """
    a, b = pair_signs(static), pair_signs(rewards)
    both = (valid[:, :, None] & valid[:, None, :]).triu(1)
    flipped = ((a * b < 0) & both).sum().double()
    split = (((a == 0) != (b == 0)) & both).sum().double()
    worst = torch.finfo(static.dtype).min
    best, others = torch.where(valid, static, worst).argmax(-1, keepdim=True), torch.where(valid, rewards, worst)
    lost = others.gather(1, best).squeeze(1) < others.amax(-1) - 1e-12
    several = valid.sum(-1) > 1
    return {
        "pairs": (((a != 0) | (b != 0)) & both).sum().double(),
        "flipped": flipped,
        "split": split,
        "kendall_distance": flipped + split / 2,
        "groups": several.sum().double(),
        "new_best": (lost & several).sum().double(),
    }


def pair_signs(rewards: Tensor) -> Tensor:
    """``[P, G, G]`` 1 where the first is better than the second, -1 where it is worse, 0 where they are tied."""
    difference = rewards[:, :, None] - rewards[:, None, :]
    return torch.where(difference.abs() < 1e-9, 0.0, difference.sign())
