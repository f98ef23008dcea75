"""The run folder: where it is, what a run logs and saves there, and how a killed run goes on."""

from lightning_focal.runs.checkpoint_io import AtomicCheckpointIO
from lightning_focal.runs.folder import RUN_FOLDER_ENV, let_go, not_written, own_rank, release, run_folder, run_scope, take
from lightning_focal.runs.loggers import CSVLog, EventLog
from lightning_focal.runs.processes import ENDED_BY_CTRL_C, ProcessWatch, end_with_parent, rejoin
from lightning_focal.runs.record import ConfigRecord, RunRecord
from lightning_focal.runs.resume import Resume, last_checkpoint, resume_from, why_broken
from lightning_focal.runs.saving import RunCheckpoint, RunFolder, share_folder

__all__ = [
    "ENDED_BY_CTRL_C",
    "RUN_FOLDER_ENV",
    "AtomicCheckpointIO",
    "CSVLog",
    "ConfigRecord",
    "EventLog",
    "ProcessWatch",
    "Resume",
    "RunCheckpoint",
    "RunFolder",
    "RunRecord",
    "end_with_parent",
    "last_checkpoint",
    "let_go",
    "not_written",
    "own_rank",
    "rejoin",
    "release",
    "resume_from",
    "run_folder",
    "run_scope",
    "share_folder",
    "take",
    "why_broken",
]
