"""Readers of rubric files: one module a format, recognised by the fields of the rows."""

from lightning_focal.rubrics.readers.base import FORMATS, RubricFormat, RubricRow
from lightning_focal.rubrics.readers.healthbench import HealthBenchFormat
from lightning_focal.rubrics.readers.plain import PlainFormat
from lightning_focal.rubrics.readers.read import read_rows, read_rubrics

__all__ = [
    "FORMATS",
    "HealthBenchFormat",
    "PlainFormat",
    "RubricFormat",
    "RubricRow",
    "read_rows",
    "read_rubrics",
]
