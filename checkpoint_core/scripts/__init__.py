"""``train.sh`` and ``train.bat``: parsed, edited, and their paths understood."""

from __future__ import annotations

from checkpoint_core.scripts import bash, batch
from checkpoint_core.scripts.change import (
    SCRIPT_TROUBLE,
    Edit,
    NoScript,
    Receipt,
    Remove,
    ScriptChange,
    ScriptChangedSinceShown,
    ScriptUnreadable,
    SetSwitch,
    SetValue,
    SetValues,
    plan_edits,
    plan_fresh,
    plan_resume,
    value_in_script,
)
from checkpoint_core.scripts.facts import ResumeTarget, ScriptFacts
from checkpoint_core.scripts.other_runs import other_runs
from checkpoint_core.scripts.paths import (
    is_of_this_machine,
    is_run_folder,
    output_elsewhere,
    path_here,
    run_command,
)
from checkpoint_core.scripts.reading import read_script, resume_target, script_facts
from checkpoint_core.scripts.script import TrainScript, dialect_of, find_script
from checkpoint_core.scripts.tokens import Dialect, InexpressiblePath, ScriptNotUnderstood

__all__ = [
    "SCRIPT_TROUBLE",
    "Dialect",
    "Edit",
    "InexpressiblePath",
    "NoScript",
    "Receipt",
    "Remove",
    "ResumeTarget",
    "ScriptChange",
    "ScriptChangedSinceShown",
    "ScriptFacts",
    "ScriptNotUnderstood",
    "ScriptUnreadable",
    "SetSwitch",
    "SetValue",
    "SetValues",
    "TrainScript",
    "bash",
    "batch",
    "dialect_of",
    "find_script",
    "is_of_this_machine",
    "is_run_folder",
    "other_runs",
    "output_elsewhere",
    "path_here",
    "plan_edits",
    "plan_fresh",
    "plan_resume",
    "read_script",
    "resume_target",
    "run_command",
    "script_facts",
    "value_in_script",
]
