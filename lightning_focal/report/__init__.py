"""What came out of a run, to look at: one HTML file, and the same pictures in TensorBoard while it runs."""

from lightning_focal.report.callbacks import LiveFigures, WriteReport
from lightning_focal.report.page import Written, write_report

__all__ = ["LiveFigures", "WriteReport", "Written", "write_report"]
