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
from lightning_focal.rubrics.readers.read import Reading, read_all, read_rows, read_rubrics
from lightning_focal.rubrics.readers.write import to_row, write_rows

__all__ = ["FORMATS", "Reading", "RubricFormat", "RubricRow", "read_all", "read_rows", "read_rubrics", "to_row", "write_rows"]
