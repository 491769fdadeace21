"""The ways on for a run, planned and taken; what tab, command line and report share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from checkpoint_core.audit.auditor import Auditor, CheckpointReport
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.environment.rehearsal.run import rehearse_state
from checkpoint_core.recovery.options import Kind, Recovery, Way, recovery_of
from checkpoint_core.recovery.repair import Choices, Mend, plan_mend
from checkpoint_core.recovery.resume import check_resume
from checkpoint_core.recovery.script_fixes import saving_edits
from checkpoint_core.scripts.change import (
    Edit,
    NoScript,
    Receipt,
    Remove,
    ScriptChange,
    SetValue,
    plan_edits,
    plan_fresh,
    plan_resume,
    value_in_script,
)
from checkpoint_core.scripts.script import InexpressiblePath, ScriptNotUnderstood
from checkpoint_core.states.repair_records import RepairRecord

#: Why a script cannot be changed; the run's own findings say so, and no way leads through it.
_NO_WAY = (NoScript, ScriptNotUnderstood, InexpressiblePath)

#: Older checkpoints that need the same repair only lose more; each plan costs two judgements.
_MOST_MENDS = 3


def plan_recovery(
    auditor: Auditor,
    run: RunReport,
    choices: Choices | None = None,
    plan: Callable[[Auditor, RunReport, CheckpointReport, Choices | None], Mend | None] | None = None,
) -> Recovery:
    """The ways on for a run; repairs are planned from the newest checkpoint to the first that is ready.

    :param plan: plans one repair, instead of :func:`mend_of`.
    """
    mends: dict[str, Mend] = {}
    for item in run.checkpoints:
        if mend := (plan or mend_of)(auditor, run, item, choices):
            mends[item.name] = mend
        if item.verdict.resumes or len(mends) >= _MOST_MENDS:
            break
    return recovery_of(run, mends)


def mend_of(
    auditor: Auditor, run: RunReport, item: CheckpointReport, choices: Choices | None = None
) -> Mend | None:
    """The repair of a checkpoint, if one is known and the script can be changed."""
    try:
        return plan_mend(auditor, run, item, choices)
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


def change_of(run: RunReport, way: Way) -> ScriptChange | None:
    """What a way changes in the train script.

    :raises NoScript, ScriptNotUnderstood, InexpressiblePath: when the script cannot be changed.
    """
    if way.mend is not None:
        return way.mend.plan.script
    if way.kind is Kind.SAVING and run.facts.script is not None:
        return plan_edits(run.facts.path, saving_edits(run.facts.script))
    if way.kind is Kind.WARM_START:
        return plan_warm_start(run, way.lora, way.next_epoch or 1)
    return (
        plan_fresh(run.facts.path) if way.kind is Kind.FRESH else plan_resume(run.facts.path, way.checkpoint)
    )


@dataclass(frozen=True)
class Taken:
    """What was done: a repair's record, or the script's receipt; either can be undone."""

    record: RepairRecord | None = None
    receipt: Receipt | None = None


def take(way: Way, change: ScriptChange | None, look: Callable[[], CheckpointReport]) -> Taken:
    """Go a way.

    :param change: of the script, as it was shown; not used for a repair, which brings its own.
    :param look: judges the way's checkpoint as it then lies on the disk.
    :raises ResumeRefused: when the checkpoint may not be resumed from as it lies there now; nothing was changed.
    :raises MendFailed: when a repair did not do what it promised; it was taken back.
    :raises StateChangedSinceShown, ScriptChangedSinceShown, WriteFailed, RecordUnusable: nothing was changed.
    """
    if way.mend is not None:
        return Taken(record=way.mend.execute(look))
    if way.kind in (Kind.RESUME, Kind.OLDER):
        check_resume(look())
    return Taken(receipt=change.execute()) if change is not None else Taken()


def look_again(auditor: Auditor, run: str, checkpoint: str) -> Callable[[], CheckpointReport]:
    """Judges a checkpoint as it lies on the disk, and loads it for trial where nobody has tried the versions."""

    def look() -> CheckpointReport:
        now = auditor.audit_run(run).checkpoint(checkpoint)
        if now.verdict.resumes and now.needs_rehearsal:
            return auditor.rehearse(run, checkpoint, rehearse_state)
        return now

    return look
