"""The recovery options for a run, planned and taken; what tab, command line and report share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from checkpoint_core.audit import Auditor, CheckpointReport, RunReport
from checkpoint_core.environment import rehearse_state
from checkpoint_core.recovery.launching import set_aside_for
from checkpoint_core.recovery.options import OptionKind, RecoveryOption, RecoveryPlan, rank_options
from checkpoint_core.recovery.repair import Choices, RepairPlan, plan_repair
from checkpoint_core.recovery.resume import check_resume
from checkpoint_core.recovery.script_fixes import saving_edits
from checkpoint_core.scripts import (
    Edit,
    InexpressiblePath,
    NoScript,
    Receipt,
    Remove,
    ScriptChange,
    ScriptNotUnderstood,
    ScriptUnreadable,
    SetValue,
    plan_edits,
    plan_fresh,
    plan_resume,
    value_in_script,
)
from checkpoint_core.states import RepairRecord

#: Why a script cannot be changed; the run's own findings say so, and no option leads through it.
_NO_WAY = (NoScript, ScriptUnreadable, ScriptNotUnderstood, InexpressiblePath)

#: Older checkpoints that need the same repair only lose more; each plan costs two judgements.
_MOST_REPAIRS = 3


def plan_recovery(
    auditor: Auditor,
    run: RunReport,
    choices: Choices | None = None,
    plan: Callable[[Auditor, RunReport, CheckpointReport, Choices | None], RepairPlan | None] | None = None,
) -> RecoveryPlan:
    """The recovery options for a run; repairs are planned from the newest checkpoint to the first that is ready.

    :param plan: plans one repair, instead of :func:`repair_of`.
    """
    repair_plans: dict[str, RepairPlan] = {}
    for item in run.checkpoints:
        if repair_plan := (plan or repair_of)(auditor, run, item, choices):
            repair_plans[item.name] = repair_plan
        if item.verdict.resumes or len(repair_plans) >= _MOST_REPAIRS:
            break
    recovery = rank_options(run, repair_plans)
    return replace(recovery, options=tuple(_with_set_aside(run, each) for each in recovery.options))


def _with_set_aside(run: RunReport, option: RecoveryOption) -> RecoveryOption:
    """The option with what of the run is set aside before the training starts, and so is kept, too."""
    told = set_aside_for(run, option).sentence
    if not told:
        return option
    return replace(option, keeps=told if option.kind is OptionKind.FRESH else f"{option.keeps} {told}")


def repair_of(
    auditor: Auditor, run: RunReport, item: CheckpointReport, choices: Choices | None = None
) -> RepairPlan | None:
    """The repair of a checkpoint, if one is known and the script can be changed."""
    try:
        return plan_repair(auditor, run, item, choices)
    except _NO_WAY:
        return None


def plan_warm_start(run: RunReport, lora: str, next_epoch: int) -> ScriptChange:
    """Plan to start from a LoRA file: the learned weights, at the epoch after it, optimizer and schedule new.

    Source: sd-scripts ``train_network.py``, ``--network_weights`` and ``--initial_epoch``.

    :raises NoScript, ScriptNotUnderstood, InexpressiblePath: when the script cannot be changed.
    """
    value = value_in_script(run.facts.path, lora)
    edits: list[Edit] = [
        SetValue("--network_weights", value.value),
        SetValue("--initial_epoch", str(next_epoch)),
        *(Remove(flag) for flag in ("--resume", "--initial_step", "--skip_until_initial_step")),
    ]
    return plan_edits(run.facts.path, edits, notes=(value.note,) if value.note else ())


def change_of(run: RunReport, option: RecoveryOption) -> ScriptChange | None:
    """What an option changes in the train script.

    :raises NoScript, ScriptNotUnderstood, InexpressiblePath: when the script cannot be changed.
    """
    if option.repair_plan is not None:
        return option.repair_plan.plan.script
    if option.kind is OptionKind.SAVING and run.facts.script is not None:
        return plan_edits(run.facts.path, saving_edits(run.facts.script))
    if option.kind is OptionKind.WARM_START:
        return plan_warm_start(run, option.lora, option.next_epoch or 1)
    return (
        plan_fresh(run.facts.path)
        if option.kind is OptionKind.FRESH
        else plan_resume(run.facts.path, option.checkpoint)
    )


@dataclass(frozen=True)
class Applied:
    """What was done: a repair's record, or the script's receipt; either can be undone."""

    record: RepairRecord | None = None
    receipt: Receipt | None = None


def apply_option(
    option: RecoveryOption, change: ScriptChange | None, look: Callable[[], CheckpointReport]
) -> Applied:
    """Carry out an option.

    :param change: of the script, as it was shown; not used for a repair, which brings its own.
    :param look: judges the option's checkpoint as it then lies on the disk.
    :raises ResumeRefused: when the checkpoint may not be resumed from as it lies there now; nothing was changed.
    :raises RepairFailed: when a repair did not do what it promised; it was reverted.
    :raises StateChangedSinceShown, ScriptChangedSinceShown, WriteFailed, RecordUnusable: nothing was changed.
    """
    if option.repair_plan is not None:
        return Applied(record=option.repair_plan.execute(look))
    if option.kind in (OptionKind.RESUME, OptionKind.OLDER):
        check_resume(look())
    return Applied(receipt=change.execute()) if change is not None else Applied()


def look_again(auditor: Auditor, run: str, checkpoint: str) -> Callable[[], CheckpointReport]:
    """Judges a checkpoint as it lies on the disk, and test-loads it where nobody has tried the versions."""

    def look() -> CheckpointReport:
        now = auditor.audit_run(run).checkpoint(checkpoint)
        if now.verdict.resumes and now.needs_rehearsal:
            return auditor.rehearse(run, checkpoint, rehearse_state)
        return now

    return look
