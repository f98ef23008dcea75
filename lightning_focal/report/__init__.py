"""What came out of a run, to look at: one HTML file, and the same pictures in its loggers while it runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_focal.report.page import Written, write_report

if TYPE_CHECKING:
    from lightning_focal.report.callbacks import WriteReport
    from lightning_focal.report.media import LogMedia, takes_media

__all__ = ["LogMedia", "WriteReport", "Written", "takes_media", "write_report"]


def __getattr__(name: str) -> Any:
    """Callbacks when they are asked for: a report is written without Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("lightning_focal.report." + ("callbacks" if name == "WriteReport" else "media")), name)
