"""torchmetrics shells over :mod:`lightning_focal.functional`."""

from __future__ import annotations

from lightning_focal.metrics.criteria import CriterionBalance, CriterionSaturation

__all__ = ["CriterionBalance", "CriterionSaturation"]
