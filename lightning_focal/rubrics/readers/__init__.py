"""Readers of rubric files: one module a format, recognised by the fields of the rows."""

from lightning_focal.rubrics.readers import (  # noqa: F401 - each registers its format
    healthbench,
    ifeval,
    plain,
    rar,
    researchrubrics,
    rlcf,
    rubrichub,
    ruscarl,
)
from lightning_focal.rubrics.readers.base import FORMATS, RubricFormat, RubricRow
from lightning_focal.rubrics.readers.read import read_rows, read_rubrics

__all__ = ["FORMATS", "RubricFormat", "RubricRow", "read_rows", "read_rubrics"]
