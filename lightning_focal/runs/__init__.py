"""The run folder: where it is, what a run logs and saves there, and how a killed run goes on."""

from lightning_focal.runs.callback import RunFolder, RunRecord
from lightning_focal.runs.checkpoint_io import AtomicCheckpointIO
from lightning_focal.runs.csv_log import CSVLog
from lightning_focal.runs.events import EventLog
from lightning_focal.runs.folder import release, run_folder
from lightning_focal.runs.last import last_checkpoint, why_broken
from lightning_focal.runs.resume import resume_from
from lightning_focal.runs.saving import RunCheckpoint
from lightning_focal.runs.watch import ProcessWatch

__all__ = [
    "AtomicCheckpointIO",
    "CSVLog",
    "EventLog",
    "ProcessWatch",
    "RunCheckpoint",
    "RunFolder",
    "RunRecord",
    "last_checkpoint",
    "release",
    "resume_from",
    "run_folder",
    "why_broken",
]
