"""What responses are measured by: criteria, rubrics, and readers of the public formats."""

from lightning_focal.rubrics.criterion import Criterion, Rubric, RubricError
from lightning_focal.rubrics.pools import few_of, pool_untagged
from lightning_focal.rubrics.readers import FORMATS, Reading, RubricRow, read_all, read_rows, read_rubrics, to_row, write_rows

__all__ = ["FORMATS", "Criterion", "Reading", "Rubric", "RubricError", "RubricRow", "few_of", "pool_untagged", "read_all"]
__all__ += ["read_rows", "read_rubrics", "to_row", "write_rows"]
