"""From verdicts to the tensors that reward strategies read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_focal.judges.base import Outcome, Verdict
from lightning_focal.rubrics.criterion import Rubric
from lightning_focal.types import CriterionScores

__all__ = ["verdicts_to_scores"]


def verdicts_to_scores(verdicts: Sequence[Sequence[Sequence[Verdict]]], rubrics: Sequence[Rubric]) -> CriterionScores:
    """Turn verdicts into criterion scores, padded to the longest rubric.

    Met / not met is 1 / 0, a grade ``(value - low) / (high - low)``; a criterion with negative points scores ``1 - met`` and
    weighs ``|points|``, so larger is better everywhere (ours). Not applicable and error become mask False, never a 0.

    Args:
        verdicts: ``[P][G][C_p]``, in the order of each rubric's criteria; every group of one size ``G``, else ``ValueError``.
        rubrics: one a prompt, ``[P]``.

    Returns:
        Scores ``[P, G, C]`` float32, mask True = counts, the rubrics' own weights, ``failed`` True where the judge failed.

    >>> from lightning_focal.rubrics import Criterion
    >>> rubric = Rubric((Criterion("right", "Is right.", 3), Criterion("rude", "Is rude.", -1)))
    >>> met, missed = Verdict(Outcome.MET), Verdict(Outcome.NOT_MET)
    >>> verdicts_to_scores([[(met, met), (met, missed)]], [rubric]).scores
    tensor([[[1., 0.],
             [1., 1.]]])
    """
    if len(verdicts) != len(rubrics):
        raise ValueError(f"`verdicts` must hold one group per rubric ({len(rubrics)}), got {len(verdicts)}")
    group_size = len(verdicts[0]) if verdicts else 0
    width = max((len(rubric) for rubric in rubrics), default=0)
    scores, mask, failed = [], [], []
    for p, (group, rubric) in enumerate(zip(verdicts, rubrics, strict=True)):
        if len(group) != group_size:
            raise ValueError(f"`verdicts[{p}]` must hold {group_size} rollouts like the first group, got {len(group)}")
        for g, row in enumerate(group):
            if len(row) != len(rubric):
                raise ValueError(f"`verdicts[{p}][{g}]` must hold one verdict per criterion ({len(rubric)}), got {len(row)}")
            met = [verdict.met(criterion) for verdict, criterion in zip(row, rubric.criteria, strict=True)]
            padding = width - len(row)
            parted = zip(met, rubric.criteria, strict=True)
            score = [0.0 if m is None else 1.0 - m if criterion.is_fault else m for m, criterion in parted]
            scores.append(score + [0.0] * padding)
            mask.append([m is not None for m in met] + [False] * padding)
            failed.append([verdict.outcome is Outcome.ERROR for verdict in row] + [False] * padding)
    shape = (len(rubrics), group_size, width)
    weights = [list(rubric.prior_weights) + [0.0] * (width - len(rubric)) for rubric in rubrics]
    return CriterionScores(
        scores=torch.tensor(scores, dtype=torch.float32).reshape(shape),
        mask=torch.tensor(mask, dtype=torch.bool).reshape(shape),
        weights=torch.tensor(weights, dtype=torch.float32).reshape(len(rubrics), width),
        names=tuple(rubric.names for rubric in rubrics),
        tags=tuple(tuple(criterion.tags for criterion in rubric.criteria) for rubric in rubrics),
        failed=torch.tensor(failed, dtype=torch.bool).reshape(shape),
        outcomes=tuple(tuple(tuple(v.outcome.value for v in row) for row in group) for group in verdicts),
        reasons=tuple(tuple(tuple(v.reason for v in row) for row in group) for group in verdicts),
    )
