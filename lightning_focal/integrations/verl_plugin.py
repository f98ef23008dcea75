"""What verl imports by itself, through its entry point ``verl.plugins``: the advantage estimator ``lightning_focal``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import Tensor

__all__ = ["given_advantages"]


def given_advantages(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """Spread what was written with ``write: advantages`` over each response: advantages and returns ``[N, T]``."""
    advantages = (token_level_rewards * response_mask).sum(-1, keepdim=True) * response_mask
    return advantages, advantages


if find_spec("verl") is not None:
    from verl.trainer.ppo.core_algos import register_adv_est

    register_adv_est("lightning_focal")(given_advantages)
