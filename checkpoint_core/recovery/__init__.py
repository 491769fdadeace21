"""Plans that change a run: repair, resume, remove, undo."""

from __future__ import annotations

from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.fix import FixChoices
from checkpoint_core.recovery.launching import next_set_aside, set_aside_from
from checkpoint_core.recovery.next_steps import next_steps
from checkpoint_core.recovery.options import OptionKind, RecoveryOption, RecoveryPlan
from checkpoint_core.recovery.planning import apply_option, change_of, look_again, plan_recovery, repair_of
from checkpoint_core.recovery.removal import (
    Removal,
    RemovalRefused,
    finish_removals,
    links_in,
    look_again_at_run,
    plan_removal,
    retention_of,
)
from checkpoint_core.recovery.repair import Choices, RepairFailed, RepairPlan
from checkpoint_core.recovery.replaced import (
    NothingToRestore,
    named,
    remove_replaced,
    restore,
    set_aside_saves,
)
from checkpoint_core.recovery.replaced_records import Replaced, read_replaced
from checkpoint_core.recovery.resume import ResumeRefused, plan_checked, resume
from checkpoint_core.recovery.retention import (
    Candidate,
    DiskForecast,
    RetentionPlan,
    disk_forecast,
    plan_retention,
)
from checkpoint_core.recovery.transaction import NothingToUndo, StateChangedSinceShown

__all__ = [
    "Candidate",
    "Choices",
    "DiskForecast",
    "FixChoices",
    "NothingToRestore",
    "NothingToUndo",
    "OptionKind",
    "RecoveryOption",
    "RecoveryPlan",
    "Removal",
    "RemovalRefused",
    "RepairFailed",
    "RepairPlan",
    "Replaced",
    "ResumeRefused",
    "RetentionPlan",
    "StateChangedSinceShown",
    "apply_option",
    "change_of",
    "disk_forecast",
    "finish_removals",
    "links_in",
    "look_again",
    "look_again_at_run",
    "named",
    "next_set_aside",
    "next_steps",
    "plan_checked",
    "plan_recovery",
    "plan_removal",
    "plan_retention",
    "read_replaced",
    "remove_replaced",
    "repair_of",
    "restore",
    "resume",
    "retention_of",
    "set_aside_from",
    "set_aside_saves",
    "transaction",
]
