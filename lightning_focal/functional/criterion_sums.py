"""What is counted of each criterion, in sums that pool exactly."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_focal.functional._inputs import expect_bool, expect_shape
from lightning_focal.functional.levels import scatter_sums
from lightning_focal.functional.zscores import group_spread

__all__ = ["CriterionSums", "criterion_sums"]


@dataclass(frozen=True)
class CriterionSums:
    """Sums by criterion name, each ``[n]``; they add up over batches and processes, the shares and means are read off at the end.

    Args:
        slots: rollouts that bore the criterion.
        judged: of these, scores that count.
        failed: of these, failures of the judge; the rest was not applicable.
        score: sum of the scores that count.
        groups: groups in which it was judged at least once.
        all_pass: of these, groups in which every judged rollout meets it.
        all_fail: of these, groups in which none does; the rest is contrastive.
        spread_groups: groups in which it was judged at least twice.
        spread: sum of their within-group standard deviations (unbiased).
    """

    slots: Tensor
    judged: Tensor
    failed: Tensor
    score: Tensor
    groups: Tensor
    all_pass: Tensor
    all_fail: Tensor
    spread_groups: Tensor
    spread: Tensor

    def __add__(self, other: CriterionSums) -> CriterionSums:
        return CriterionSums(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def shares(self) -> dict[str, Tensor]:
        """Return means and shares by criterion, each ``[n]``, NaN where there is nothing to divide by."""
        return {
            "score": self.score / self.judged,
            "group_std": self.spread / self.spread_groups,
            "all_pass": self.all_pass / self.groups,
            "all_fail": self.all_fail / self.groups,
            "contrastive": (self.groups - self.all_pass - self.all_fail) / self.groups,
            "not_applicable": (self.slots - self.judged - self.failed) / self.slots,
            "failed": self.failed / self.slots,
        }


@torch.no_grad()
def criterion_sums(
    scores: Tensor,
    mask: Tensor | None = None,
    failed: Tensor | None = None,
    index: Tensor | None = None,
    n: int | None = None,
    threshold: float = 1.0,
) -> CriterionSums:
    """Add up a batch by criterion.

    Args:
        scores: ``[P, G, C]`` in [0, 1].
        mask: ``[P, G, C]`` bool, True = this score counts; None = all count.
        failed: ``[P, G, C]`` bool, True = the judge failed here; None = nowhere.
        index: ``[P, C]`` int64, which of ``n`` names a criterion bears, -1 = padding; None = one name a column, no padding.
        n: number of names; needed with ``index``.
        threshold: a criterion is met by a score of at least this.

    Returns:
        The sums, float64 (float32 on MPS).

    Raises:
        ValueError: on shapes that do not fit, or an ``index`` without ``n``.
        TypeError: if ``mask`` or ``failed`` is not boolean.

    >>> sums = criterion_sums(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    >>> sums.shares()["score"], sums.shares()["contrastive"]
    (tensor([1.0000, 0.5000], dtype=torch.float64), tensor([0., 1.], dtype=torch.float64))
    """
    expect_shape("scores", scores, "P, G, C")
    p, g, c = scores.shape
    if index is not None and n is None:
        raise ValueError("`n`, the number of names, must be given with `index`, got None")
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    expect_bool("mask", mask, "P, G, C", (p, g, c))
    if failed is None:
        failed = torch.zeros_like(mask)
    expect_bool("failed", failed, "P, G, C", (p, g, c))
    columns = torch.arange(c, device=scores.device).expand(p, c) if index is None else index
    names = c if n is None else n
    judged = mask.sum(1)
    met = (mask & (scores >= threshold)).sum(1)
    _, std = group_spread(scores, mask)
    kept = torch.where(mask, scores, torch.zeros_like(scores)).to(std.dtype)

    def by_name(values: Tensor) -> Tensor:
        return scatter_sums(values, columns, names)

    return CriterionSums(
        slots=by_name(torch.full_like(judged, g)),
        judged=by_name(judged),
        failed=by_name((failed & ~mask).sum(1)),
        score=by_name(kept.sum(1)),
        groups=by_name(judged > 0),
        all_pass=by_name((judged > 0) & (met == judged)),
        all_fail=by_name((judged > 0) & (met == 0)),
        spread_groups=by_name(judged > 1),
        spread=by_name(std),
    )
