"""What a press on the page gives: what was done, and what the user is asked before more is done."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.recovery import RecoveryOption, Removal, Replaced
from checkpoint_core.scripts import Receipt, ScriptChange
from checkpoint_core.states import RepairRecord
from checkpoint_core.tab.page_names import PageName
from checkpoint_core.tab.views.actions import error_view


class Asked(enum.Enum):
    """What the user is asked to confirm."""

    #: Take a recovery option.
    OPTION = "option"
    #: Bring back what a repair changed.
    UNDO = "undo"
    #: Start a training that begins at epoch 1 over what is there.
    FRESH = "fresh"
    #: Start a training that begins with another run's training.
    ELSEWHERE = "elsewhere"
    #: Start a training beside another one on the same GPU.
    FORCE = "force"
    STOP = "stop"
    REMOVE = "remove"
    #: Bring back what a start would have overwritten, or remove it for good.
    RESTORE = "restore"
    DISCARD = "discard"


@dataclass(frozen=True)
class Confirmation:
    """A question, with everything that was shown with it: that alone is done when the user says yes.

    ``option`` and ``change`` belong to a recovery option, ``undo`` to a repair's record, ``removal`` to checkpoints
    that go, ``bring_back`` to a training's start, ``replaced`` to what was set aside before one.
    """

    run: PageName
    asked: Asked
    layout: str = ""
    option: RecoveryOption | None = None
    change: ScriptChange | None = None
    undo: RepairRecord | None = None
    removal: Removal | None = None
    bring_back: bool = False
    replaced: Replaced | None = None


@dataclass(frozen=True)
class Written:
    """What a press wrote into a run's script: ``state_path`` is what it resumes from now, if anything.

    ``is_undo`` says that an earlier press was taken back.
    """

    state_path: Path | None = None
    is_undo: bool = False


@dataclass(frozen=True)
class ActionResult:
    """What a press did. ``message`` is HTML; ``question`` is asked with it.

    ``done`` says that what was asked for was done, ``written`` that a script or a checkpoint was changed; ``receipt``
    can take that back, and ``state_path`` is what the script resumes from now. ``is_undo`` says that something was
    taken back.
    """

    message: str
    question: Confirmation | None = None
    done: bool = False
    written: bool = False
    receipt: Receipt | RepairRecord | None = None
    state_path: Path | None = None
    is_undo: bool = False


def guarded(work: Callable[[], ActionResult], trouble: tuple[type[Exception], ...]) -> ActionResult:
    """What a press did, or in words why it could not: errors in ``trouble`` have a text for the user."""
    try:
        return work()
    except trouble as error:
        return ActionResult(error_view(str(error)))
