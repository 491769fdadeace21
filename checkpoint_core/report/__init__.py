"""An audit as JSON, Markdown, zip and DataFrame."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from checkpoint_core.report.collect import diagnosis_for
from checkpoint_core.report.diagnosis import Diagnosis
from checkpoint_core.report.json_schema import (
    SCHEMA_VERSION,
    Json,
    check_json,
    checkpoint_json,
    recovery_json,
    repair_json,
    scan_json,
)
from checkpoint_core.report.training import (
    progress_facts,
    share_done,
    status_sentence,
    status_word,
    training_json,
    training_lines,
)

if TYPE_CHECKING:
    from checkpoint_core.report.table import learning_rate, load_table, to_dataframe, to_display

__all__ = [
    "SCHEMA_VERSION",
    "Diagnosis",
    "Json",
    "check_json",
    "checkpoint_json",
    "diagnosis_for",
    "learning_rate",
    "load_table",
    "progress_facts",
    "recovery_json",
    "repair_json",
    "scan_json",
    "share_done",
    "status_sentence",
    "status_word",
    "to_dataframe",
    "to_display",
    "training_json",
    "training_lines",
]

#: pandas takes half a second that the command line need not spend.
_LATER = dict.fromkeys(
    ("learning_rate", "load_table", "to_dataframe", "to_display"), "checkpoint_core.report.table"
)


def __getattr__(name: str) -> Any:
    """Import on first use what is not always needed."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
