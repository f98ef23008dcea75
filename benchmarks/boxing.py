"""Rollouts of a policy that knows no boxes: which of five its first token is counts as a boxed answer."""

from __future__ import annotations

from dataclasses import replace

from lightning_focal.generation import HFGenerator
from lightning_focal.types import Rollouts


class Boxing(HFGenerator):
    """Gives a random policy answers to vote on, so that a benchmark needs no warm start."""

    def generate(self, *args, **kwargs) -> Rollouts:
        rollouts = super().generate(*args, **kwargs)
        letters = rollouts.response_ids[..., 0] % 5
        return replace(rollouts, texts=tuple(tuple(rf"\boxed{{{letter}}}" for letter in group) for group in letters.tolist()))
