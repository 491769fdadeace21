"""Find, judge and resume the training states of FluxGym (kohya-ss/sd-scripts and accelerate).

Nothing of a checkpoint is ever executed. The tab and the command line are built on what is exported here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from checkpoint_core.audit import (
    Auditor,
    AuditReport,
    CheckpointReport,
    Finding,
    LatestResumable,
    RunReport,
    Severity,
    Subject,
    UnknownName,
    Verdict,
    audit_outputs,
    find_latest_resumable,
)
from checkpoint_core.states import Layout, OutputsFolderError
from checkpoint_core.version import __version__

if TYPE_CHECKING:
    from checkpoint_core.report import load_table, to_dataframe, to_display


__all__ = [
    "AuditReport",
    "Auditor",
    "CheckpointReport",
    "Finding",
    "LatestResumable",
    "Layout",
    "OutputsFolderError",
    "RunReport",
    "Severity",
    "Subject",
    "UnknownName",
    "Verdict",
    "__version__",
    "audit_outputs",
    "find_latest_resumable",
    "load_table",
    "to_dataframe",
    "to_display",
]

_FROM_TABLE = frozenset({"load_table", "to_dataframe", "to_display"})


def __getattr__(name: str) -> Any:
    """Import the table on first use: pandas takes half a second that the command line need not spend."""
    if name in _FROM_TABLE:
        return getattr(import_module("checkpoint_core.report"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
