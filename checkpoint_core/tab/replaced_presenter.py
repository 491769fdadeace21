"""What the tab does with what was set aside before a start: asks, brings it back, removes it."""

from __future__ import annotations

from pathlib import Path

from checkpoint_core.audit import RunReport
from checkpoint_core.recovery import NothingToRestore, named, remove_replaced, restore
from checkpoint_core.tab.page_names import page_name
from checkpoint_core.tab.results import ActionResult, Asked, Confirmation
from checkpoint_core.tab.views.actions import good_view
from checkpoint_core.tab.views.replaced import DISCARD, RESTORE, discard_question, restore_question
from checkpoint_core.text import human_bytes
from checkpoint_core.training import CannotStart, Processes, training_status


def is_about_replaced(wanted: str) -> bool:
    """Whether what a page asks is about something that was set aside."""
    return wanted.startswith((RESTORE, DISCARD))


def ask_replaced(run: RunReport, wanted: str) -> tuple[str, Confirmation]:
    """What a press would bring back or remove, and the question to answer.

    :raises NothingToRestore: when it is not there any more.
    """
    restores = wanted.startswith(RESTORE)
    record = named(run.facts.path, wanted.removeprefix(RESTORE if restores else DISCARD))
    asked = Asked.RESTORE if restores else Asked.DISCARD
    told = restore_question(record) if restores else discard_question(record)
    return told, Confirmation(page_name(run.name), asked, replaced=record)


def answer_replaced(run: RunReport, question: Confirmation) -> ActionResult:
    """Bring back or remove what the question named.

    :raises NothingToRestore: when it is not there any more.
    :raises CannotStart: while the run trains.
    :raises WriteFailed: when something could not be put in its place.
    """
    path, record = run.facts.path, question.replaced
    if record is None:
        raise NothingToRestore("There is nothing left to restore; look again.")
    _refuse_while_training(path)
    if question.asked is Asked.DISCARD:
        freed = human_bytes(remove_replaced(path, record.id))
        return ActionResult(good_view(f"Removed for good: {record.what}; {freed} are free again."), done=True)
    _, other = restore(path, record.id)
    moved = f" What was in its place is in {other.place} now." if other is not None else ""
    return ActionResult(good_view(f"Restored: {record.what}.{moved}"), done=True)


def _refuse_while_training(run: Path) -> None:
    if training_status(run, Processes()).is_running:
        raise CannotStart("This run is training. Stop it first, or let it finish.")
