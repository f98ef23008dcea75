"""What responses are measured by: criteria, rubrics, and readers of the public formats."""

from lightning_focal.rubrics.criterion import Criterion, Rubric
from lightning_focal.rubrics.errors import RubricError
from lightning_focal.rubrics.readers import FORMATS, RubricRow, read_rows, read_rubrics

__all__ = ["FORMATS", "Criterion", "Rubric", "RubricError", "RubricRow", "read_rows", "read_rubrics"]
