"""Base weights: the rubric's own, all alike, or given."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_focal.types import CriterionScores

__all__ = ["BaseWeights", "check_base_weights", "given_weight", "raw_weights"]

BaseWeights = Literal["uniform", "prior"] | dict[str, float]
"""``prior``: the rubric's points; ``uniform``: all alike; a mapping: by criterion name, or by criterion key."""


def check_base_weights(weights: BaseWeights) -> None:
    """Refuse what is no choice of base weights.

    Raises:
        ValueError: naming what is wrong.
    """
    if isinstance(weights, dict):
        bad = {name: value for name, value in weights.items() if not 0 <= value < float("inf")}
        if bad or not any(weights.values()):
            raise ValueError(f"`weights` must map names to finite numbers >= 0, at least one above 0, got {bad or weights}")
    elif weights not in ("uniform", "prior"):
        raise ValueError(f"`weights` must be 'uniform', 'prior' or a mapping of names to weights, got {weights!r}")


def given_weight(weights: dict[str, float], name: str, key: str) -> float:
    """Return the weight of a criterion's name, or else of its key.

    Raises:
        ValueError: when there is neither.
    """
    weight = weights.get(name, weights.get(key))
    if weight is None:
        raise ValueError(
            f"`weights` has no weight for the criterion {name!r}, nor for its key {key!r}; it names {sorted(weights)}"
        )
    return float(weight)


def raw_weights(weights: BaseWeights, scores: CriterionScores) -> Tensor:
    """Return unnormalised base weights ``[P, C]``.

    Args:
        weights: see :data:`BaseWeights`; a criterion takes the weight of its name, or else of its key.
        scores: names and keys of the criteria, and the rubric's own weights.

    Raises:
        ValueError: when a mapping has no weight for a criterion.

    >>> one = torch.ones(1, 1, 2)
    >>> scores = CriterionScores(one, one > 0, torch.tensor([[0.9, 0.1]]), (("short", "polite"),), ((("axis:brevity",), ()),))
    >>> raw_weights({"brevity": 2.0, "polite": 1.0}, scores)
    tensor([[2., 1.]])
    """
    if weights == "prior":
        return scores.weights
    if isinstance(weights, str):
        return torch.ones_like(scores.weights)
    c = scores.scores.shape[2]
    rows = [
        [given_weight(weights, name, key) for name, key in zip(names, keys, strict=True)] + [0.0] * (c - len(names))
        for names, keys in zip(scores.names, scores.keys, strict=True)
    ]
    return torch.tensor(rows, dtype=scores.weights.dtype, device=scores.weights.device).reshape(len(rows), c)
