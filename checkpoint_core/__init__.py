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

#: A table needs pandas, half a second that the command line need not spend.
_LATER = dict.fromkeys(("load_table", "to_dataframe", "to_display"), "checkpoint_core.report")


def __getattr__(name: str) -> Any:
    """Import on first use what is not always needed."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
