"""The one resume: a checkpoint held against what forbids it, and ``--resume`` written into the train script."""

from __future__ import annotations

from typing import NamedTuple

from checkpoint_core.audit import CheckpointReport, RunReport, note, title
from checkpoint_core.scripts import Receipt, ScriptChange, ScriptChangedSinceShown, plan_resume


class ResumeRefused(RuntimeError):
    """The checkpoint may not be resumed from as it stands; nothing was changed. The text says why."""


class Resumed(NamedTuple):
    """What was written into the script, and what reverts it."""

    change: ScriptChange
    receipt: Receipt


def check_resume(item: CheckpointReport) -> None:
    """Hold a checkpoint, as it was just judged, against what forbids a resume.

    :raises ResumeRefused: when it does not resume, or was not rehearsed though nobody has tried the versions.
    """
    if not item.verdict.resumes:
        raise ResumeRefused(f"{title(item)} does not resume. {note(item)}".rstrip())
    if item.needs_rehearsal:
        raise ResumeRefused("It was not rehearsed to the end; nothing was changed.")


def plan_checked(run: RunReport, item: CheckpointReport) -> ScriptChange:
    """Plan to let the run's script resume from a checkpoint.

    :raises ResumeRefused: when the checkpoint forbids it.
    :raises NoScript, ScriptNotUnderstood, InexpressiblePath: when the script cannot be changed.
    """
    check_resume(item)
    return plan_resume(run.facts.path, item.name)


def resume(run: RunReport, item: CheckpointReport, shown: ScriptChange | None = None) -> Resumed:
    """Let the run's script resume from a checkpoint.

    :param shown: what is written is this and nothing else: no plan for another run, or for a script changed since.
    :raises ResumeRefused: when the checkpoint forbids it.
    :raises NoScript, ScriptNotUnderstood, InexpressiblePath, ScriptChangedSinceShown, WriteFailed: nothing was
        written.
    """
    change = plan_checked(run, item)
    if shown is not None and not shown.writes_as(change):
        raise ScriptChangedSinceShown(change.path)
    return Resumed(change, change.execute())
