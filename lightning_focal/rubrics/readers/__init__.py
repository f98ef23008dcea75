"""Readers of rubric files: the format is recognised by the fields of the rows."""

from lightning_focal.rubrics.readers import formats  # noqa: F401 - it registers them
from lightning_focal.rubrics.readers.base import FORMATS, RubricFormat, RubricRow
from lightning_focal.rubrics.readers.read import Reading, read_all, read_rows, read_rubrics, to_row, write_rows

__all__ = ["FORMATS", "Reading", "RubricFormat", "RubricRow", "read_all", "read_rows", "read_rubrics", "to_row", "write_rows"]
