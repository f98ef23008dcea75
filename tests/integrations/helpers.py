"""Rollouts with given texts."""

import torch

from lightning_focal.types import Rollouts

STAGES = {"train": "fit", "val": "validate"}


def answered(data, split, answers, truncated=False):
    """Rollouts of the first prompts of a split of a data module: ``answers`` ``[P][G]``, of seven tokens each."""
    data.setup(STAGES[split])
    prompts = data.make_prompts(split, data.rows[split][: len(answers)])
    p, g = len(answers), len(answers[0])
    ids = torch.ones(p, g, 7, dtype=torch.int64)
    return Rollouts(
        prompts=prompts,
        texts=tuple(tuple(group) for group in answers),
        prompt_ids=torch.ones(p, 5, dtype=torch.int64),
        prompt_mask=torch.ones(p, 5, dtype=torch.bool),
        response_ids=ids,
        response_mask=ids > 0,
        truncated=torch.full((p, g), truncated),
    )
