"""torchmetrics shells over :mod:`lightning_focal.functional`."""

from __future__ import annotations

from lightning_focal.metrics.balance import CriterionBalance
from lightning_focal.metrics.saturation import CriterionSaturation

__all__ = ["CriterionBalance", "CriterionSaturation"]
