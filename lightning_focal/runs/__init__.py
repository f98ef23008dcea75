"""The run folder: where it is, metrics.csv, TensorBoard events, and checkpoints that are never half written."""

from lightning_focal.runs.callback import RunFolder, RunRecord
from lightning_focal.runs.checkpoint_io import AtomicCheckpointIO
from lightning_focal.runs.csv_log import CSVLog
from lightning_focal.runs.events import EventLog
from lightning_focal.runs.folder import release, run_folder

__all__ = ["AtomicCheckpointIO", "CSVLog", "EventLog", "RunFolder", "RunRecord", "release", "run_folder"]
